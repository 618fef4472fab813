// Fresh tensors straight from the C shim: the operators of torch/csrc/stable/ops.h go through the
// dispatcher, which costs a small input's call more than its kernel.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <cstring>

#include "ops/arguments.h"

namespace mixnorm::ops {

// Uninitialised, on the device of `like`.
inline Tensor empty_strided(const Tensor& like, int32_t dtype, int64_t dims, const int64_t* sizes,
                            const int64_t* strides) {
  int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dims, sizes, strides, dtype, device_type, device_index, &handle));
  Tensor tensor(handle);
#if defined(MIXNORM_EMULATION)
  // NaN, so that an element that no kernel writes is seen.
  if (tensor.numel() > 0) {
    std::memset(tensor.data_ptr(), 0xff, tensor.numel() * tensor.element_size());
  }
#endif
  return tensor;
}

// Uninitialised, of the dtype of `like`.
inline Tensor empty_strided(const Tensor& like, int64_t dims, const int64_t* sizes,
                            const int64_t* strides) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  return empty_strided(like, dtype, dims, sizes, strides);
}

// An uninitialised 0-dim bool tensor.
inline Tensor empty_flag(const Tensor& like) {
  return empty_strided(like, aoti_torch_dtype_bool(), 0, nullptr, nullptr);
}

// Uninitialised and contiguous, [count] or [rows, columns], of the dtype of `like`.
inline Tensor empty(const Tensor& like, int64_t count) {
  const int64_t stride = 1;
  return empty_strided(like, 1, &count, &stride);
}
inline Tensor empty(const Tensor& like, int64_t rows, int64_t columns) {
  const int64_t sizes[] = {rows, columns}, strides[] = {columns, 1};
  return empty_strided(like, 2, sizes, strides);
}

// Uninitialised, of the shape and dtype of a [rows, columns] tensor, contiguous.
inline Tensor like(const Tensor& tensor) { return empty(tensor, tensor.size(0), tensor.size(1)); }

// The tensor itself where it is contiguous, else a contiguous copy.
inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

}  // namespace mixnorm::ops
