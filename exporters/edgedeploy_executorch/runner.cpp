// Runs one method of an ExecuTorch program again and again, and prints the time of every pass: a JSON object per line.
//
//   edgedeploy_runner PROGRAM --passes N [--threads N] [--method NAME] [--shapes 1x3x64x64,1x10]
//
// A pass is Module::execute: inputs set, graph run, outputs fetched. Floating point inputs are uniform in [0, 1), bytes
// in 0 to 127, everything else is zero; they are the same in every run. Without --threads, ExecuTorch decides how many.
// How to build it is in README.md beside this file. It needs ExecuTorch 1.5 or newer, and no PyTorch.

#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>
#include <executorch/runtime/core/exec_aten/util/scalar_type_util.h>

// The package has no header for its thread pool: these are the two functions of it that are called.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
  size_t get_thread_count() const;
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::Tag;
using Clock = std::chrono::steady_clock;

namespace {

[[noreturn]] void fail(const std::string& what, Error error = Error::Ok) {
  std::fprintf(stderr, "error: %s", what.c_str());
  if (error != Error::Ok) std::fprintf(stderr, " (ExecuTorch error 0x%x)", static_cast<unsigned>(error));
  std::fprintf(stderr, "\n");
  std::exit(1);
}

long long nanoseconds(Clock::duration time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}

unsigned long number(const std::string& text, const std::string& what) {
  char* end = nullptr;
  const unsigned long value = std::strtoul(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || text[0] == '-' || value == 0) {
    fail(what + " has to be 1 or more, not '" + text + "'");
  }
  return value;
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
  return parts;
}

// Bytes of `count` elements of a type, the same for the same type and count.
std::vector<uint8_t> values(ScalarType type, size_t count) {
  std::vector<uint8_t> bytes(count * executorch::runtime::elementSize(type));
  uint32_t state = 1;
  for (size_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    const float uniform = static_cast<float>(state >> 8) / 16777216.0f;
    if (type == ScalarType::Float) std::memcpy(&bytes[4 * i], &uniform, 4);
    if (type == ScalarType::Byte || type == ScalarType::Char) bytes[i] = state >> 25;
    if (type == ScalarType::Half) {  // exponents of [0.5, 1)
      const uint16_t half = static_cast<uint16_t>(0x3800u | (state >> 22));
      std::memcpy(&bytes[2 * i], &half, 2);
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, std::string> given;
  for (int i = 2; i < argc; i += 2) {
    const std::string name = argv[i];
    if (name != "--passes" && name != "--threads" && name != "--method" && name != "--shapes") {
      fail("there is no " + name);
    }
    if (i + 1 == argc) fail(name + " needs a value");
    given[name] = argv[i + 1];
  }
  if (argc < 2 || given.count("--passes") == 0) {
    fail("usage: edgedeploy_runner PROGRAM --passes N [--threads N] [--method NAME] [--shapes 1x3x64x64,1x10]");
  }
  const unsigned long passes = number(given["--passes"], "--passes");
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (given.count("--threads") != 0) {
    if (pool == nullptr) fail("this ExecuTorch has no thread pool: leave --threads out");
    pool->_unsafe_reset_threadpool(static_cast<uint32_t>(number(given["--threads"], "--threads")));
  }

  const auto opening = Clock::now();
  Module module(argv[1]);
  Error error = module.load();
  if (error != Error::Ok) fail(std::string("cannot load ") + argv[1], error);
  const auto first_name = module.program()->get_method_name(0);
  if (!first_name.ok()) fail("the program has no method", first_name.error());
  const std::string method = given.count("--method") != 0 ? given["--method"] : *first_name;
  error = module.load_method(method);
  if (error != Error::Ok) fail("cannot load method '" + method + "'", error);
  const long long load = nanoseconds(Clock::now() - opening);

  const auto meta = module.method_meta(method);
  if (!meta.ok()) fail("method '" + method + "' does not say what it takes", meta.error());
  const auto shapes = split(given["--shapes"], ',');
  if (!shapes.empty() && shapes.size() != meta->num_inputs()) fail("--shapes needs one shape per input");
  std::vector<std::vector<uint8_t>> memory;
  std::vector<TensorPtr> tensors;
  std::vector<EValue> inputs;
  for (size_t i = 0; i < meta->num_inputs(); ++i) {
    const auto tag = meta->input_tag(i);
    if (!tag.ok() || *tag != Tag::Tensor) fail("input " + std::to_string(i) + " is no tensor");
    const auto info = meta->input_tensor_meta(i);
    if (!info.ok()) fail("input " + std::to_string(i) + " is not described", info.error());
    std::vector<SizesType> sizes(info->sizes().begin(), info->sizes().end());
    if (!shapes.empty()) {
      sizes.clear();
      for (const auto& size : split(shapes[i], 'x')) sizes.push_back(static_cast<SizesType>(number(size, "a size")));
    }
    size_t count = 1;
    for (const auto size : sizes) count *= static_cast<size_t>(size);
    memory.push_back(values(info->scalar_type(), count));
    tensors.push_back(executorch::extension::make_tensor_ptr(sizes, memory.back().data(), info->scalar_type()));
    inputs.emplace_back(*tensors.back());
  }

  std::vector<long long> times(passes);
  for (auto& time : times) {
    const auto begin = Clock::now();
    const auto outputs = module.execute(method, inputs);
    time = nanoseconds(Clock::now() - begin);
    if (!outputs.ok()) fail("method '" + method + "' failed", outputs.error());
  }

  const size_t threads = pool == nullptr ? 1 : pool->get_thread_count();
  std::printf("{\"method\": \"%s\", \"threads\": %zu, \"load\": %lld}\n", method.c_str(), threads, load);
  for (unsigned long i = 0; i < passes; ++i) std::printf("{\"pass\": %lu, \"nanoseconds\": %lld}\n", i + 1, times[i]);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("{\"peak memory\": %lld}\n", static_cast<long long>(usage.ru_maxrss) * 1024);
  return 0;
}
