// Threads of a block as fibers, so that they can wait for each other; see cuda_shim.py.
#include "cuda_shim.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <deque>
#include <ucontext.h>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define SANITIZED 1
#else
#define SANITIZED 0
static void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

static const size_t STACK = 128 << 10;
struct Fiber
{
    ucontext_t context;
    jmp_buf place;               // where it goes on, unless SANITIZED
    void* fake;
    bool begun, done;
    int barrier;                 // line of the one that it waits at
    std::vector<char> stack;
};
static std::deque<Fiber> fibers; // which do not move
static ucontext_t scheduler_context;
static jmp_buf scheduler;
static void* scheduler_fake;
static const void* scheduler_stack;
static size_t scheduler_size;
static size_t current;
static void (*body)(void**);
static void** arguments;
static long blocks_begun;
static char fault[200];          // what a GPU would not survive, or not survive in any order

// Jumps ask the system for nothing, as contexts do, but AddressSanitizer does not follow them.
static void leave(bool done, int line)
{
    Fiber& f = fibers[current];
    f.done = done;
    f.barrier = line;
    __sanitizer_start_switch_fiber(&f.fake, scheduler_stack, scheduler_size);
    if (SANITIZED) swapcontext(&f.context, &scheduler_context);
    else if (!_setjmp(f.place)) _longjmp(scheduler, 1);
    __sanitizer_finish_switch_fiber(f.fake, &scheduler_stack, &scheduler_size);
}

static void enter(Fiber& f)
{
    __sanitizer_start_switch_fiber(&scheduler_fake, f.stack.data(), STACK);
    if (SANITIZED) swapcontext(&scheduler_context, &f.context);
    else if (!_setjmp(scheduler))
    {
        if (f.begun) _longjmp(f.place, 1);
        f.begun = true;
        setcontext(&f.context);
    }
    f.begun = true;
    __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr);
}

void sync_threads(int line) { leave(false, line); }

// A warp waits for itself alone; here it must be the whole block, and all of it.
void sync_warp(int line, unsigned int mask)
{
    if (blockDim.x * blockDim.y * blockDim.z != 32 || mask != 0xffffffffu)
        snprintf(fault, sizeof fault, "line %d waits for a part of a warp", line);
    for (int i = 0; i < 32; i++)
        if (fibers[i].done) snprintf(fault, sizeof fault, "line %d: lane %d has ended", line, i);
    leave(false, line);
}

// `v` of the lane `by` below, one's own where there is none. What a lane hands in stays until all
// have taken it: the next exchange uses the other places.
unsigned int shuffle_up(int line, unsigned int mask, unsigned int v, int by)
{
    static unsigned int places[2][32];
    static int exchanges[32];
    const int lane = threadIdx.x, side = exchanges[lane]++ & 1;
    places[side][lane] = v;
    sync_warp(line, mask);
    return places[side][lane < by ? lane : lane - by];
}

// What the block before has left in shared memory is of no use: NaN, or -1, for the first thread of
// a block that comes to the declaration.
void fresh(void* memory, size_t bytes, long* block)
{
    if (*block == blocks_begun) return;
    *block = blocks_begun;
    memset(memory, 0xff, bytes);
}

// A thread of one block after the other.
static void thread()
{
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
    for (;;)
    {
        body(arguments);
        leave(true, 0);
    }
}

// ---- order ----

// 0: forwards; 1: backwards; any other number: at random, from that seed.
static unsigned long long chance;
static int order_kind;

static void order(std::vector<int>& places)
{
    const int n = (int)places.size();
    for (int i = 0; i < n; i++) places[i] = order_kind == 1 ? n - 1 - i : i;
    if (order_kind < 2) return;
    for (int i = n - 1; i > 0; i--)
    {
        // Xorshift (Marsaglia 2003).
        chance ^= chance << 13, chance ^= chance >> 7, chance ^= chance << 17;
        std::swap(places[i], places[chance % (i + 1)]);
    }
}

static void begin(size_t n)
{
    blocks_begun++;
    if (fibers.size() < n) fibers.resize(n);
    for (size_t i = 0; i < n; i++)
    {
        Fiber& f = fibers[i];
        f.done = false;
        if (f.begun) continue;
        f.stack.resize(STACK);
        f.fake = nullptr;
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.data();
        f.context.uc_stack.ss_size = STACK;
        f.context.uc_link = nullptr;
        makecontext(&f.context, thread, 0);
    }
}

// Every thread to its next barrier -> whether one is left. All that are left are at the same one.
static bool run_to_barrier(size_t n, std::vector<int>& places)
{
    bool left = false;
    int line = 0;
    order(places);
    for (size_t k = 0; k < n && !fault[0]; k++)
    {
        current = places[k];
        Fiber& f = fibers[current];
        if (f.done) continue;
        const int i = (int)current;
        const int row = i / blockDim.x;
        threadIdx = {i % blockDim.x, row % blockDim.y, row / blockDim.y};
        enter(f);
        if (f.done) continue;
        if (left && f.barrier != line)
            snprintf(
                fault, sizeof fault, "some threads wait at line %d, others at %d", line, f.barrier);
        left = true;
        line = f.barrier;
    }
    return left && !fault[0];
}

// Returns what went wrong, or nothing.
const char* run(
    const int* grid, const int* block, void (*kernel)(void**), void** args, int kind)
{
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    body = kernel;
    arguments = args;
    fault[0] = 0;
    order_kind = kind;
    chance = 0x9E3779B97F4A7C15ull * (unsigned)kind | 1;
    const size_t n = (size_t)block[0] * block[1] * block[2];
    std::vector<int> blocks(grid[0] * grid[1] * grid[2]), places(n);
    order(blocks);
    for (int i : blocks)
    {
        blockIdx = {i % grid[0], i / grid[0] % grid[1], i / (grid[0] * grid[1])};
        begin(n);
        while (run_to_barrier(n, places)) {}
        if (fault[0]) break;
    }
    // Threads that were left half-way begin anew.
    if (fault[0]) fibers.clear();
    return fault[0] ? fault : nullptr;
}
