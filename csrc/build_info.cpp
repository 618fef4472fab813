// The module `_C`: what the operator libraries beside it were built with. Needs no libtorch.
#include <pybind11/pybind11.h>

#define MIXNORM_STRINGIFY_(x) #x
#define MIXNORM_STRINGIFY(x) MIXNORM_STRINGIFY_(x)

namespace py = pybind11;

namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "Clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "GCC " __VERSION__;
#elif defined(_MSC_VER)
constexpr const char* kCompiler = "MSVC " MIXNORM_STRINGIFY(_MSC_FULL_VER);
#else
constexpr const char* kCompiler = "unknown";
#endif

py::object string_or_none(const char* text) {
  return *text ? py::object(py::str(text)) : py::object(py::none());
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = kCompiler;
  info["python"] = MIXNORM_PYTHON_VERSION;
  info["torch"] = MIXNORM_TORCH_VERSION;
  info["cuda"] = string_or_none(MIXNORM_CUDA_VERSION);
  info["cuda_archs"] = string_or_none(MIXNORM_CUDA_ARCHS);
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "What mixnorm_cuda's operator libraries were built with.";
  m.def("build_info", &build_info);
}
