// The device "cuda:0" with the memory of the host and the kernels of the CPU; see __init__.py.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>

#include <atomic>
#include <cstring>
#include <set>

using namespace at;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
using c10::OperatorHandle;
using torch::jit::Stack;

namespace {

const Device gpu(kCUDA, 0);
std::atomic<int64_t> allocated{0}, peak{0}, most{INT64_MAX};
std::atomic<bool> may_wait{true};

// ---- memory

struct Block {
  void* host;
  int64_t bytes;
};

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  allocated -= block->bytes;
  free(block->host);
  delete block;
}

struct GpuAllocator final : Allocator {
  DataPtr allocate(size_t size) override {
    const int64_t bytes = (size + 511) / 512 * 512;  // as torch's allocator rounds
    const int64_t now = allocated += bytes;
    if (now > most) {
      allocated -= bytes;
      TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", bytes, " bytes (simulated)");
    }
    int64_t before = peak;
    while (before < now && !peak.compare_exchange_weak(before, now)) {
    }
    void* host = nullptr;
    TORCH_CHECK(!bytes || !posix_memalign(&host, 64, bytes), "the host has no memory left for the simulated GPU");
    return {host, new Block{host, bytes}, &release, gpu};
  }
  DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};
GpuAllocator gpu_allocator;

// ---- tensors

// Return a tensor of the CPU that shares a GPU tensor's memory.
Tensor on_cpu(const Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return tensor;
  auto* storage = new Storage(tensor.storage());
  const auto free_storage = [](void* context) { delete static_cast<Storage*>(context); };
  DataPtr data(storage->mutable_data(), storage, free_storage, Device(kCPU));
  // Resizable, so that an operation can give an empty `out` its size; `run_on_cpu` copies the result.
  Storage shared(Storage::use_byte_size_t(), storage->nbytes(), std::move(data), c10::GetCPUAllocator(), true);
  auto view = at::detail::make_tensor<TensorImpl>(std::move(shared), DispatchKeySet(DispatchKey::CPU), tensor.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  view._set_conj(tensor.is_conj());
  view._set_neg(tensor.is_neg());
  return view;
}

Tensor make_empty(IntArrayRef size, std::optional<ScalarType> type, std::optional<Layout>, std::optional<Device>,
                  std::optional<bool>, std::optional<MemoryFormat> format) {
  return at::detail::empty_generic(size, &gpu_allocator, DispatchKeySet(DispatchKey::CUDA), dtype_or_default(type), format);
}

Tensor make_empty_strided(IntArrayRef size, IntArrayRef strides, std::optional<ScalarType> type, std::optional<Layout>,
                     std::optional<Device>, std::optional<bool>) {
  const DispatchKeySet keys(DispatchKey::CUDA);
  return at::detail::empty_strided_generic(size, strides, &gpu_allocator, keys, dtype_or_default(type));
}

Tensor to_gpu(const Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cuda()) return tensor;
  auto copy = make_empty_strided(tensor.sizes(), tensor.strides(), tensor.scalar_type(), {}, {}, {});
  on_cpu(copy).copy_(tensor);
  return copy;
}

void wait(const std::string& name) {
  TORCH_CHECK(may_wait, "called a synchronizing operation: ", name, " waits for the GPU");
}

Tensor& copy_tensor(Tensor& to, const Tensor& from, bool non_blocking) {
  if (!non_blocking && to.is_cuda() != from.is_cuda()) wait("copy_");
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

const Tensor& resize_tensor(const Tensor& tensor, IntArrayRef size, std::optional<MemoryFormat> format) {
  auto* impl = tensor.unsafeGetTensorImpl();
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  const size_t bytes = (c10::multiply_integers(size) + tensor.storage_offset()) * tensor.itemsize();
  if (bytes > storage->nbytes()) {
    auto data = gpu_allocator.allocate(bytes);
    if (storage->nbytes()) std::memcpy(data.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(data));
    storage->set_nbytes(bytes);
  }
  impl->set_sizes_contiguous(size);
  if (format) impl->empty_tensor_restride(*format);
  return tensor;
}

Tensor& set_memory(Tensor& tensor, Storage storage, int64_t offset, IntArrayRef size, IntArrayRef strides) {
  TORCH_CHECK(storage.device().is_cuda(), "a tensor of the GPU was given memory of the host");
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_sizes_contiguous(size);
  if (strides.size() == size.size()) impl->set_sizes_and_strides(size, strides);
  impl->set_storage_offset(offset);
  return tensor;
}

// ---- operations

// On a GPU these take tensors of the host beside its own, as indices.
const std::set<std::string> mixing{"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"};
const std::set<std::string> waiting{"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal",
                                    "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::repeat_interleave"};

// Return a value with `change` applied to each tensor in it.
template <typename Change>
IValue map_tensors(const IValue& value, const Change& change) {
  if (value.isTensor()) return change(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> changed;
    for (const Tensor& tensor : value.toTensorVector()) changed.push_back(change(tensor));
    return changed;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> changed;
    for (const auto& tensor : value.toOptionalTensorVector()) changed.push_back(tensor ? std::make_optional(change(*tensor)) : tensor);
    return changed;
  }
  return value;
}

// Run any operation of the GPU by the CPU's kernel.
void run_on_cpu(const OperatorHandle& operation, DispatchKeySet, Stack* stack) {
  const auto& name = operation.schema().name();
  const auto begin = stack->size() - operation.schema().arguments().size();
  std::vector<std::pair<Tensor, Tensor>> given;  // of the GPU, on the CPU
  bool has_gpu = false, has_host = false;
  for (auto i = begin; i < stack->size(); i++) {
    auto& value = (*stack)[i];
    if (value.isDevice()) value = Device(kCPU);
    value = map_tensors(value, [&](const Tensor& tensor) {
      if (!tensor.defined()) return tensor;
      has_gpu |= tensor.is_cuda();
      has_host |= !tensor.is_cuda() && tensor.dim() > 0;  // numbers may come from the host
      given.emplace_back(tensor, on_cpu(tensor));
      return given.back().second;
    });
  }
  TORCH_CHECK(!(has_gpu && has_host) || mixing.count(name), "Expected all tensors to be on the same device, but found at least two ",
              "devices, cuda:0 and cpu! (", name, ")");
  if (has_gpu && waiting.count(name)) wait(name);
  operation.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  for (auto i = stack->size() - operation.schema().returns().size(); i < stack->size(); i++) {
    (*stack)[i] = map_tensors((*stack)[i], [&](const Tensor& result) {
      for (auto& [tensor, view] : given) {
        if (!view.is_same(result)) continue;
        if (tensor.is_cuda() && !tensor.sizes().equals(result.sizes())) {  // an `out` that got its size
          resize_tensor(tensor, result.sizes(), {});
          on_cpu(tensor).copy_(result);
        }
        return tensor;
      }
      return to_gpu(result);
    });
  }
}

// Convolve float16 in float32: the CPU's own kernels for it take minutes.
void convolve(const OperatorHandle& operation, DispatchKeySet keys, Stack* stack) {
  bool is_half = false;
  const auto convert = [&](size_t count, ScalarType from, ScalarType to) {
    for (auto i = stack->size() - count; i < stack->size(); i++) {
      auto& value = (*stack)[i];
      if (!value.isTensor() || !value.toTensor().defined() || value.toTensor().scalar_type() != from) continue;
      is_half = true;
      value = value.toTensor().to(to);
    }
  };
  convert(operation.schema().arguments().size(), kHalf, kFloat);
  run_on_cpu(operation, keys, stack);
  if (is_half) convert(operation.schema().returns().size(), kFloat, kHalf);
}

// ---- what torch asks of a device

struct CUDAHooks : at::CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool isPinnedPtr(const void*) const override { return false; }
  Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  Allocator* getCUDADeviceAllocator() const override { return &gpu_allocator; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex current_device() const override { return 0; }
  int getNumGPUs() const override { return 1; }
  Device getDeviceFromPtr(void*) const override { return gpu; }
  Generator getNewGenerator(DeviceIndex) const override { return at::detail::createCPUGenerator(); }
  const Generator& getDefaultGenerator(DeviceIndex) const override { return at::detail::getDefaultCPUGenerator(); }
  void deviceSynchronize(DeviceIndex) const override {}
};
REGISTER_CUDA_HOOKS(CUDAHooks)

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return kCUDA; }
  Device exchangeDevice(Device) const override { return gpu; }
  Device getDevice() const override { return gpu; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  DeviceIndex deviceCount() const noexcept override { return 1; }
  Stream getStream(Device) const override { return Stream(Stream::DEFAULT, gpu); }
  Stream getDefaultStream(Device) const override { return getStream(gpu); }
  Stream getStreamFromGlobalPool(Device, bool) const override { return getStream(gpu); }
  Stream getNewStream(Device, int) const override { return getStream(gpu); }
  Stream exchangeStream(Stream) const override { return getStream(gpu); }
  void record(void** event, const Stream&, DeviceIndex, c10::EventFlag) const override { *event = this_event(); }
  void destroyEvent(void*, DeviceIndex) const noexcept override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void synchronizeStream(const Stream&) const override {}
  void synchronizeDevice(DeviceIndex) const override {}
  void recordDataPtrOnStream(const DataPtr&, const Stream&) const override {}

 private:
  static void* this_event() {
    static char event;
    return &event;
  }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

const bool is_allocator_set = (c10::SetAllocator(kCUDA, &gpu_allocator, 1), true);

}  // namespace

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &make_empty);
  library.impl("empty_strided", &make_empty_strided);
  library.impl("copy_", &copy_tensor);
  library.impl("resize_", &resize_tensor);
  library.impl("as_strided", [](const Tensor& tensor, IntArrayRef size, IntArrayRef strides, std::optional<int64_t> offset) {
    return at::native::as_strided_tensorimpl(tensor, size, strides, offset);
  });
  library.impl("view", [](const Tensor& tensor, IntArrayRef size) { return at::native::view(tensor, size); });
  library.impl("_reshape_alias", [](const Tensor& tensor, IntArrayRef size, IntArrayRef strides) {
    return at::native::_reshape_alias(tensor, size, strides);
  });
  library.impl("unfold", [](const Tensor& tensor, int64_t dim, int64_t size, int64_t step) {
    return at::native::unfold(tensor, dim, size, step);
  });
  library.impl("set_.source_Storage", [](Tensor& tensor, Storage storage) -> Tensor& {
    return at::native::set_(tensor, std::move(storage));
  });
  library.impl("set_.source_Storage_storage_offset", &set_memory);
  library.impl("set_.source_Tensor", [](Tensor& tensor, const Tensor& other) -> Tensor& {
    return set_memory(tensor, other.storage(), other.storage_offset(), other.sizes(), other.strides());
  });
  for (const auto* name : {"convolution", "convolution_backward"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&convolve>());
  }
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("allocated_bytes", [] { return allocated.load(); });
  module.def("peak_bytes", [] { return peak.load(); });
  module.def("reset_peak", [] { peak = allocated.load(); });
  module.def("set_limit", [](int64_t bytes) { most = bytes; });
  module.def("set_may_wait", [](bool may) { may_wait = may; });
}
