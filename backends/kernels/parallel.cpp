// Runs parallel loops of code that TVM generated on torch's OpenMP threads: the function that TVM calls
// TVMBackendParallelLaunch, see tvm/runtime/c_backend_api.h.

#include <omp.h>

#include <algorithm>
#include <atomic>

namespace {

struct Group {
  void* barrier;  // loops that wait for each other in the middle are not generated
  int tasks;
};

using Task = int (*)(int number, Group* group, void* data);

}  // namespace

extern "C" int parallel_launch(Task task, void* data, int tasks) {
  if (tasks == 0) tasks = omp_get_max_threads();
  std::atomic<bool> failed{false};
#pragma omp parallel for schedule(static, 1) num_threads(std::min(tasks, omp_get_max_threads()))
  for (int number = 0; number < tasks; ++number) {
    Group group{nullptr, tasks};
    if (task(number, &group, data) != 0) failed = true;
  }
  return failed ? -1 : 0;
}
