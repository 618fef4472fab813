"""Trainings on real images: batch normalization beside mixture normalization."""
