"""Studies: declared grids of trainings, run in slices, ending in tables and plots."""
