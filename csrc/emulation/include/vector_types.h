// CUDA's short vectors with CUDA's alignment, and the functions that make them.
#pragma once

#define MIXNORM_VECTORS(T, name, two, four)                          \
  struct alignas(two) name##2 { T x, y; };                           \
  struct name##3 { T x, y, z; };                                     \
  struct alignas(four) name##4 { T x, y, z, w; };                    \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
MIXNORM_VECTORS(signed char, char, 2, 4)
MIXNORM_VECTORS(unsigned char, uchar, 2, 4)
MIXNORM_VECTORS(short, short, 4, 8)
MIXNORM_VECTORS(unsigned short, ushort, 4, 8)
MIXNORM_VECTORS(int, int, 8, 16)
MIXNORM_VECTORS(unsigned, uint, 8, 16)
MIXNORM_VECTORS(float, float, 8, 16)
MIXNORM_VECTORS(long long, longlong, 16, 16)
MIXNORM_VECTORS(unsigned long long, ulonglong, 16, 16)
MIXNORM_VECTORS(double, double, 16, 16)
#undef MIXNORM_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};
