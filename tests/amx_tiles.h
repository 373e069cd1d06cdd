// The matrix unit's tiles in software, for processors with AVX-512 bf16 and without AMX: included before amx.cpp.
#pragma once
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>

namespace tiles {

struct alignas(64) Tile {
    unsigned char rows[16][64];
};

inline thread_local Tile tile[8];

inline void zero(int t) { std::memset(&tile[t], 0, sizeof(Tile)); }

inline void load(int t, const void* from, size_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy(tile[t].rows[r], (const char*)from + r * stride, 64);
}

inline void store(int t, void* to, size_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy((char*)to + r * stride, tile[t].rows[r], 64);
}

// c[m][n] += sum over pairs k of a[m][k] . b[k][n]
inline void dot(int c, int a, int b) {
    for (int m = 0; m < 16; m++) {
        __m512 sum = _mm512_load_ps((const float*)tile[c].rows[m]);
        for (int k = 0; k < 16; k++) {
            int pair;
            std::memcpy(&pair, tile[a].rows[m] + 4 * k, 4);
            sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_load_si512(tile[b].rows[k]));
        }
        _mm512_store_ps((float*)tile[c].rows[m], sum);
    }
}

}  // namespace tiles

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_loadconfig
#undef _tile_release
#define _tile_zero(t) tiles::zero(t)
#define _tile_loadd(t, from, stride) tiles::load(t, from, stride)
#define _tile_stream_loadd(t, from, stride) tiles::load(t, from, stride)
#define _tile_stored(t, to, stride) tiles::store(t, to, stride)
#define _tile_dpbf16ps(c, a, b) tiles::dot(c, a, b)
#define _tile_loadconfig(config) ((void)(config))
#define _tile_release() ((void)0)
#define syscall(...) 0
