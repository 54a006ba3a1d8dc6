// What a .cu file needs to run on a CPU: CUDA's words as plain C++, and threads of a block as
// fibers, so that __syncthreads() works. For tests on small canvases.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#else
static void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static        // one block runs at a time

struct float2 { float x, y; };
struct uint2 { unsigned int x, y; };
struct dim3 { int x, y, z; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline int min(int a, int b) { return std::min(a, b); }
static inline unsigned long long min(unsigned long long a, unsigned long long b)
{
    return std::min(a, b);
}
static inline int max(int a, int b) { return std::max(a, b); }
static inline int __popc(unsigned int v) { return __builtin_popcount(v); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned __int128)a * b >> 64;
}
// Compiled without contraction.
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline int __float_as_int(float v)
{
    int bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
static inline unsigned int __umulhi(unsigned int a, unsigned int b)
{
    return (unsigned long long)a * b >> 32;
}
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline unsigned int atomicOr(unsigned int* at, unsigned int v)
{
    unsigned int old = *at;
    *at |= v;
    return old;
}

static const size_t STACK = 128 << 10;
struct Fiber { ucontext_t context; void* fake; bool done; std::vector<char> stack; };
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static void* scheduler_fake;
static const void* scheduler_stack;
static size_t scheduler_size;
static size_t current;
static void (*body)(void**);
static void** arguments;

static void leave(bool done)
{
    Fiber& f = fibers[current];
    f.done = done;
    __sanitizer_start_switch_fiber(done ? nullptr : &f.fake, scheduler_stack, scheduler_size);
    swapcontext(&f.context, &scheduler);
    __sanitizer_finish_switch_fiber(f.fake, &scheduler_stack, &scheduler_size);
}

static void __syncthreads() { leave(false); }

// A warp waits for itself alone; here it must be the whole block.
static void __syncwarp()
{
    if (blockDim.x * blockDim.y * blockDim.z > 32) abort();
    leave(false);
}

// `v` of the lane `by` below, one's own where there is none. What a lane hands in stays until all
// have taken it: the next exchange uses the other places.
static unsigned int __shfl_up_sync(unsigned int, unsigned int v, int by)
{
    static unsigned int places[2][32];
    static int exchanges[32];
    const int lane = threadIdx.x, side = exchanges[lane]++ & 1;
    places[side][lane] = v;
    __syncwarp();
    return places[side][lane < by ? lane : lane - by];
}

static void thread()
{
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
    body(arguments);
    leave(true);
}

// All threads of a block run to their next barrier in turn, forwards or backwards, until all have
// ended.
static void run_block(bool backwards)
{
    const size_t n = (size_t)blockDim.x * blockDim.y * blockDim.z;
    if (fibers.size() < n) fibers.resize(n);
    for (size_t i = 0; i < n; i++)
    {
        Fiber& f = fibers[i];
        f.stack.resize(STACK);
        f.done = false;
        f.fake = nullptr;
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.data();
        f.context.uc_stack.ss_size = STACK;
        f.context.uc_link = nullptr;
        makecontext(&f.context, thread, 0);
    }
    for (bool left = true; left;)
    {
        left = false;
        for (size_t k = 0; k < n; k++)
        {
            current = backwards ? n - 1 - k : k;
            Fiber& f = fibers[current];
            if (f.done) continue;
            const int i = (int)current;
            const int row = i / blockDim.x;
            threadIdx = {i % blockDim.x, row % blockDim.y, row / blockDim.y};
            __sanitizer_start_switch_fiber(&scheduler_fake, f.stack.data(), STACK);
            swapcontext(&scheduler, &f.context);
            __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr);
            left = left || !f.done;
        }
    }
}

static void run(
    const int* grid, const int* block, void (*kernel)(void**), void** args, bool backwards)
{
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    body = kernel;
    arguments = args;
    const int n = grid[0] * grid[1] * grid[2];
    for (int k = 0; k < n; k++)
    {
        const int i = backwards ? n - 1 - k : k;
        blockIdx = {i % grid[0], i / grid[0] % grid[1], i / (grid[0] * grid[1])};
        run_block(backwards);
    }
}
