// Every operator's schema. The implementations register themselves in ops/, those of CUDA in a
// library of their own that is loaded after this one. The emulation of the CUDA kernels has the
// same operators in a namespace of its own.
#include <torch/csrc/stable/library.h>

#if defined(MIXNORM_EMULATION)
STABLE_TORCH_LIBRARY(mixnorm_emulated, m) {
  m.def("schedule(int seed) -> int");
  m.def("omit_synchronization(str place) -> ()");
  m.def("synchronization_places() -> str");
  m.def("enqueued() -> int");
  m.def(
      "emulate(int multiprocessors, int shared_memory_per_block, bool cooperative_launch,"
      " bool cluster_launch=True) -> ()");
#else
STABLE_TORCH_LIBRARY(mixnorm, m) {
#endif
  m.def(
      "moments(Tensor x, Tensor mixing_weight, Tensor mean, Tensor var, float eps)"
      " -> (Tensor mass, Tensor mean, Tensor var)");
  m.def(
      "normalize(Tensor x, Tensor mixing_weight, Tensor mean, Tensor var, Tensor mass,"
      " Tensor batch_mean, Tensor batch_var, Tensor? weight, Tensor? bias, float eps,"
      " bool mixing_scale) -> Tensor");
  m.def(
      "forward(Tensor x, Tensor mixing_weight, Tensor mean, Tensor var, Tensor? weight,"
      " Tensor? bias, float eps, int em_iters, bool mixing_scale)"
      " -> (Tensor y, Tensor mass, Tensor batch_mean, Tensor batch_var, Tensor responsibilities,"
      " Tensor final_mixing_weight, Tensor final_mean, Tensor final_var)");
  m.def(
      "backward(Tensor dy, Tensor x, Tensor responsibilities, Tensor mass, Tensor batch_mean,"
      " Tensor batch_var, Tensor mixing_weight, Tensor mean, Tensor var, Tensor? weight,"
      " Tensor? bias, float eps, bool mixing_scale, bool responsibility_grad, bool mixture_grad)"
      " -> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dmixing_weight, Tensor dmean,"
      " Tensor dvar)");
  m.def(
      "backward_sums(Tensor dy, Tensor x, Tensor mixing_weight, Tensor mean, Tensor var,"
      " Tensor mass, Tensor batch_mean, Tensor batch_var, float eps) -> (Tensor h1, Tensor h2)");
  m.def(
      "backward_apply(Tensor dy, Tensor x, Tensor mixing_weight, Tensor mean, Tensor var,"
      " Tensor mass, Tensor batch_mean, Tensor batch_var, Tensor h1, Tensor h2, Tensor? weight,"
      " Tensor? bias, float eps, bool mixing_scale, bool responsibility_grad)"
      " -> (Tensor dx, Tensor dweight, Tensor dbias)");
  m.def(
      "evaluate(Tensor x, Tensor mixing_weight, Tensor mean, Tensor var, Tensor? weight,"
      " Tensor? bias, float eps, bool mixing_scale) -> Tensor");
  m.def(
      "evaluate_backward(Tensor dy, Tensor x, Tensor mixing_weight, Tensor mean, Tensor var,"
      " Tensor? weight, Tensor? bias, float eps, bool mixing_scale, bool responsibility_grad)"
      " -> (Tensor dx, Tensor dweight, Tensor dbias)");
  m.def(
      "update_running(Tensor(a!) running_weight, Tensor(b!) running_mean, Tensor(c!) running_var,"
      " Tensor mass, Tensor mean, Tensor var, int count, float momentum, Tensor? factor)"
      " -> Tensor finite");
  m.def(
      "step(Tensor x, Tensor(a!) running_weight, Tensor(b!) running_mean, Tensor(c!) running_var,"
      " Tensor(d!) num_batches_tracked, Tensor? weight, Tensor? bias, float? momentum, float eps,"
      " int em_iters, bool mixing_scale) -> (Tensor y, Tensor state, Tensor responsibilities)");
  m.def(
      "step_backward(Tensor dy, Tensor x, Tensor state, Tensor responsibilities, Tensor? weight,"
      " Tensor? bias, int components, int groups, float eps, bool mixing_scale,"
      " bool responsibility_grad) -> (Tensor dx, Tensor dweight, Tensor dbias)");
  m.def(
      "cuda_device_info(int device) -> (int multiprocessors, int shared_memory_per_block,"
      " int l2_bytes, int binary_version, int ptx_version)");
  m.def(
      "cuda_plan(ScalarType dtype, int batch, int channels, int length, bool channels_last,"
      " int components, int groups, bool backward, int device) -> str");
}
