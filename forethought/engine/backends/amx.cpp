// Decoder layers and the projection to the vocabulary, without gradients, on the matrix units of x86 (AMX, bf16).
//
// A decode step of a small model multiplies a hundred rows by every weight once, and the operations between products
// take as long as these.  Here a layer is one call.  Weights are laid out in panels of 32 outputs, in the order in
// which they are read; a prompt's keys and values are two more weights, so that all its branches attend to them by the
// same products.  Logits are never stored: each panel of the vocabulary becomes a peak and a sum.
//
// Called from amx.py.  Rows of buffers are PAD values longer than their width, so that the 16 rows of a tile do not
// fall into the same set of the cache.  The number of rows of a buffer is padded to a multiple of 32, plus 32.

#include <immintrin.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

typedef uint16_t bf16;

constexpr int TILE = 16;           // rows of a tile, and its float32 columns
constexpr int PANEL = 32;          // outputs of a panel, and bf16 inputs of a step
constexpr int STEP = PANEL * 32;   // values of a panel in one step
constexpr int PAD = 32;           // values between rows of a buffer
constexpr int ROW_BLOCK = 512;    // rows that pass through products together: they stay in a core's own cache
constexpr float LOWEST = -3e38f;  // finite: a row whose keys are all masked must not become NaN

static_assert(PANEL == 2 * TILE, "a product of one panel is two tiles wide");
static_assert(ROW_BLOCK % PANEL == 0, "a block of rows begins at a tile");

// Sixteen values.

inline __m512 load(const bf16* from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16));
}

inline __m512 load(const float* from) { return _mm512_loadu_ps(from); }

inline void store(bf16* to, __m512 values) { _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(values)); }

inline void store(float* to, __m512 values) { _mm512_storeu_ps(to, values); }

inline __m512 all(float value) { return _mm512_set1_ps(value); }

// To 2e-7 relative (Cephes); 0 below -104.
inline __m512 exponential(__m512 x) {
    x = _mm512_max_ps(x, all(-104));
    __m512 n = _mm512_roundscale_ps(x * all(1.44269504f), 0);
    __m512 rest = _mm512_fnmadd_ps(n, all(-2.12194440e-4f), _mm512_fnmadd_ps(n, all(0.693359375f), x));
    __m512 p = all(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = _mm512_fmadd_ps(p, rest, all(c));
    return _mm512_scalef_ps(_mm512_fmadd_ps(p, rest * rest, rest + all(1)), n);
}

inline float exponential(float x) { return _mm512_cvtss_f32(exponential(all(x))); }

inline __m512 sigmoid(__m512 x) {
    __m512 below = all(1) + exponential(_mm512_min_ps(-x, all(80))), guess = _mm512_rcp14_ps(below);
    return guess * _mm512_fnmadd_ps(below, guess, all(2));  // one step of Newton's instead of a division
}

// silu, or the tanh form of gelu: x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).
inline __m512 activated(__m512 x, bool gelu) {
    return x * sigmoid(gelu ? all(1.5957691216f) * (x + all(0.044715f) * x * x * x) : x);
}

inline __m512i lane_numbers() { return _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }

inline int64_t padded(int64_t width) { return (width + PANEL - 1) / PANEL * PANEL; }

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// c (M x 32) = a (M x 32 steps) times one panel, M = 16 or 32.  Rows are streamed, so that the panel stays in the
// cache. between(step) is called in every step: other units compute it while the matrix unit is busy or waits.
template <int M, class Between>
inline void multiply(const bf16* a, size_t lda, const bf16* b, int steps, float* c, Between between) {
    _tile_zero(0);
    _tile_zero(1);
    if (M == 32) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int s = 0; s < steps; s++) {
        _tile_loadd(6, b + s * STEP, 64);
        _tile_stream_loadd(4, a + s * PANEL, lda * 2);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + s * STEP + STEP / 2, 64);
        _tile_dpbf16ps(1, 4, 7);
        if (M == 32) {
            _tile_stream_loadd(5, a + TILE * lda + s * PANEL, lda * 2);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        between(s);
    }
    _tile_stored(0, c, PANEL * 4);
    _tile_stored(1, c + TILE, PANEL * 4);
    if (M == 32) {
        _tile_stored(2, c + TILE * PANEL, PANEL * 4);
        _tile_stored(3, c + TILE * PANEL + TILE, PANEL * 4);
    }
}

template <int M>
inline void multiply(const bf16* a, size_t lda, const bf16* b, int steps, float* c) {
    multiply<M>(a, lda, b, steps, c, [](int) {});
}

struct Share {
    int begin, end;
};

Share share(int count) {
    int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    return {int(int64_t(count) * thread / threads), int(int64_t(count) * (thread + 1) / threads)};
}

// a (rows x 32 steps) times this thread's share of the panels.  consume(row, panel, c) gets the 32 results of each row
// while the next ones are computed.
template <class Consume>
void product(const bf16* a, size_t lda, int rows, const bf16* weight, int panels, int steps, Consume consume) {
    alignas(64) float c[2][PANEL * PANEL];
    struct {
        int row = 0, count = 0, panel = 0;
        const float* c = nullptr;
    } previous;
    const int rows_per_step = (PANEL + steps - 1) / steps;
    auto consume_rows = [&](int from, int to) {
        for (int i = from; i < std::min(to, previous.count); i++)
            consume(previous.row + i, previous.panel, previous.c + i * PANEL);
    };
    Share mine = share(panels);
    for (int p = mine.begin; p < mine.end; p++)
        for (int row = 0; row < rows; row += PANEL) {
            float* current = previous.c == c[0] ? c[1] : c[0];
            multiply<32>(a + row * lda, lda, weight + size_t(p) * steps * STEP, steps, current,
                         [&](int step) { consume_rows(step * rows_per_step, (step + 1) * rows_per_step); });
            previous = {row, std::min(PANEL, rows - row), p, current};
        }
    consume_rows(0, PANEL);
}

// One over the root mean square.
template <class Value>
float rms(const Value* x, int width, float eps) {
    __m512 square = _mm512_setzero_ps();
    for (int i = 0; i < width; i += TILE) square = _mm512_fmadd_ps(load(x + i), load(x + i), square);
    return 1.0f / std::sqrt(_mm512_reduce_add_ps(square) / width + eps);
}

void normalise(const bf16* x, bf16* out, const float* scale, int width, float eps) {
    __m512 inverse_rms = all(rms(x, width, eps));
    for (int i = 0; i < width; i += TILE) store(out + i, load(x + i) * inverse_rms * load(scale + i));
}

// One head of one row: normalised if there is a scale, and rotated by its position.
void rotate(bf16* head, const float* scale, const bf16* cos, const bf16* sin, int width, float eps) {
    if (scale) normalise(head, head, scale, width, eps);
    for (int i = 0, j = width / 2; j < width; i += TILE, j += TILE) {
        __m512 first = load(head + i), second = load(head + j);
        store(head + i, first * load(cos + i) - second * load(sin + i));
        store(head + j, second * load(cos + j) + first * load(sin + j));
    }
}

// scores -> exp(score - largest), also in bf16 for the first `kept` of them; returns their sum.
float softmax(float* scores, int span, bf16* weights, int kept) {
    __m512 largest = all(LOWEST), sum = _mm512_setzero_ps();
    for (int j = 0; j < span; j += TILE) largest = _mm512_max_ps(largest, load(scores + j));
    largest = all(_mm512_reduce_max_ps(largest));
    for (int j = 0; j < span; j += TILE) {
        __m512 weight = exponential(load(scores + j) - largest);
        sum += weight;
        store(scores + j, weight);
        if (j < kept) store(weights + j, weight);
    }
    return _mm512_reduce_add_ps(sum);
}

// scores[h][t] of Q heads of one row with its own branch's keys (T, width), from the t-th on.
template <int Q>
void branch_scores(const bf16* queries, const bf16* keys, int width, int t, int T, float scaling, float* scores,
                   size_t stride) {
    for (; t < T; t++) {
        __m512 sums[Q];
        for (int h = 0; h < Q; h++) sums[h] = _mm512_setzero_ps();
        for (int d = 0; d < width; d += PANEL) {
            __m512bh key = (__m512bh)_mm512_loadu_si512(keys + size_t(t) * width + d);
            for (int h = 0; h < Q; h++)
                sums[h] = _mm512_dpbf16_ps(sums[h], (__m512bh)_mm512_loadu_si512(queries + h * width + d), key);
        }
        for (int h = 0; h < Q; h++) scores[h * stride + t] = _mm512_reduce_add_ps(sums[h]) * scaling;
    }
}

// out[h] = (prompt_sums[h] + sum over t of weights[h][t] values[t]) / normalisers[h], for Q heads of one row.
template <int Q>
void branch_values(const float* weights, size_t stride, const bf16* values, int width, int from, int T,
                   const float* prompt_sums, size_t prompt_stride, const float* normalisers, size_t normaliser_stride,
                   bf16* out) {
    for (int d = 0; d < width; d += PANEL) {
        __m512 low[Q], high[Q];
        for (int h = 0; h < Q; h++) {
            low[h] = load(prompt_sums + h * prompt_stride + d);
            high[h] = load(prompt_sums + h * prompt_stride + d + TILE);
        }
        for (int t = from; t < T; t++) {
            __m512 first = load(values + size_t(t) * width + d), second = load(values + size_t(t) * width + d + TILE);
            for (int h = 0; h < Q; h++) {
                __m512 weight = all(weights[h * stride + t]);
                low[h] = _mm512_fmadd_ps(weight, first, low[h]);
                high[h] = _mm512_fmadd_ps(weight, second, high[h]);
            }
        }
        for (int h = 0; h < Q; h++) {
            __m512 share = all(1 / normalisers[h * normaliser_stride]);
            store(out + h * width + d, low[h] * share);
            store(out + h * width + d + TILE, high[h] * share);
        }
    }
}

// Calls f with min(heads, 4) as a compile-time constant, so that its loops over heads are unrolled; returns it.
template <class F>
int with_constant_heads(int heads, F f) {
    switch (heads) {
        case 1: f(std::integral_constant<int, 1>()); return 1;
        case 2: f(std::integral_constant<int, 2>()); return 2;
        case 3: f(std::integral_constant<int, 3>()); return 3;
        default: f(std::integral_constant<int, 4>()); return 4;
    }
}

}  // namespace

extern "C" {

struct Layer {
    const bf16 *qkv, *out, *gated, *down;  // in panels; `gated`: 16 outputs of the gate, 16 of up, and so on
    const float *qkv_bias, *out_bias;      // or null
    const float *before_attention, *after_attention, *before_mlp, *after_mlp;  // scales; second and last: or null
    const float *q_norm, *k_norm;                                              // or null
    int32_t hidden, inner, heads, kv_heads, width, gelu;
    float scaling, eps;
};

struct RowBuffers {
    bf16* x;                 // (count, hidden): input and output of a layer
    const bf16 *cos, *sin;   // (count, width)
    bf16 *heads, *attended;  // scratch, (count, width of queries, keys and values) and (count, width of queries)
    bf16 *normed, *inner;    // scratch for a block of rows
    float* added;            // scratch (block of rows, hidden), not padded
    int32_t count;
};

struct BranchCache {
    const bf16 *prompt_keys, *prompt_values;  // in panels, of each prompt and head: P x width, and width x P
    bf16 *keys, *values;                      // (rows, kv_heads, capacity, width)
    const int32_t *prompt_lengths;            // (prompts,)
    const int32_t *first_rows;                // (prompts + 1,): where each prompt's rows begin
    int32_t prompts, prompt_width, capacity, length, window;  // window 0: none
};

struct Sequences {
    const int32_t *first, *length;  // (count,): index of each sequence's first token, and its number of tokens
    const int32_t* parent;          // (count,): the sequence that it continues, or -1
    const int32_t* padded_first;    // (count,): index of its first token if sequences are padded to panels
    bf16 *keys, *values;            // scratch, panels of each sequence and head as those of prompts
    int32_t count, window;
};

struct Head {
    const bf16* weight;          // in panels
    const bf16* hidden;          // (rows, width)
    const uint32_t* masked_ids;  // (panels,): a bit for each of 32 ids that is forbidden or beyond the vocabulary
    const double* uniforms;      // (rows,); or null: take the likeliest token
    int64_t* ids;                // (rows,): out for draw, in for score
    float* logprobs;             // (rows,): out
    float *peaks, *sums;         // scratch: (rows, panels) for draw, (threads, rows) for score
    int32_t rows, vocabulary, width;
    float softcap, scale;        // softcap 0: none; scale: 1 / temperature
};

// The structures of amx_library.py have these sizes: pointers and 32-bit numbers, padded to whole pointers.
static_assert(sizeof(Layer) == 12 * 8 + 8 * 4, "Layer has padding");
static_assert(sizeof(RowBuffers) == 8 * 8 + 2 * 4, "RowBuffers has more padding than one number");
static_assert(sizeof(BranchCache) == 6 * 8 + 6 * 4, "BranchCache has more padding than one number");
static_assert(sizeof(Sequences) == 6 * 8 + 2 * 4, "Sequences has padding");
static_assert(sizeof(Head) == 8 * 8 + 6 * 4, "Head has more padding than one number");

// Read by amx_library.py, which compares the sizes with its own.
int32_t sizeof_Layer = sizeof(Layer), sizeof_RowBuffers = sizeof(RowBuffers), sizeof_BranchCache = sizeof(BranchCache);
int32_t sizeof_Sequences = sizeof(Sequences), sizeof_Head = sizeof(Head);
int32_t panel_width = PANEL, row_padding = PAD, rows_per_block = ROW_BLOCK;

int prepare() {
    constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return int(syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA));
}

// weight (outputs, inputs) -> panels.  Halves of panels alternate between `every` weights; this is number `part`.
void pack(const bf16* weight, bf16* packed, int64_t outputs, int64_t inputs, int every, int part, int threads) {
    const int64_t steps = padded(inputs) / PANEL, columns = padded(outputs) / TILE;
    const __m512i row_offsets = _mm512_mullo_epi32(_mm512_set1_epi32(int(inputs / 2)), lane_numbers());
#pragma omp parallel for num_threads(threads)
    for (int64_t column = 0; column < columns; column++) {
        const int64_t place = column * every + part, row = column * TILE;
        const bool whole = row + TILE <= outputs && inputs % 2 == 0;
        for (int64_t s = 0; s < steps; s++) {
            bf16* to = packed + (place / 2 * steps + s) * STEP + place % 2 * (STEP / 2);
            if (whole && s * PANEL + PANEL <= inputs) {
                const int32_t* from = (const int32_t*)(weight + row * inputs + s * PANEL);
                for (int i = 0; i < TILE; i++)
                    _mm512_storeu_si512(to + i * 32, _mm512_i32gather_epi32(row_offsets, from + i, 4));
                continue;
            }
            for (int64_t j = 0; j < TILE; j++)
                for (int64_t i = 0; i < PANEL; i++) {
                    bool inside = row + j < outputs && s * PANEL + i < inputs;
                    to[i / 2 * 32 + j * 2 + i % 2] = inside ? weight[(row + j) * inputs + s * PANEL + i] : 0;
                }
        }
    }
}

static size_t heads_ld(const Layer& layer) { return size_t(layer.heads + 2 * layer.kv_heads) * layer.width + PAD; }

static size_t attended_ld(const Layer& layer) { return size_t(layer.heads) * layer.width + PAD; }

static void norm_rows(const Layer& layer, const RowBuffers& rows, const float* scale) {
    Share mine = share(rows.count);
    for (int row = mine.begin; row < mine.end; row++)
        normalise(rows.x + size_t(row) * layer.hidden, rows.normed + size_t(row) * (layer.hidden + PAD), scale,
                  layer.hidden, layer.eps);
}

// Adds a product to the residual stream.  If it is normalised first, the whole row of it is needed.
static void add(const Layer& layer, const RowBuffers& rows, const bf16* a, size_t lda, const bf16* weight, int inputs,
                const float* bias, const float* scale) {
    const int hidden = layer.hidden;
    product(a, lda, rows.count, weight, hidden / PANEL, inputs / PANEL, [&](int row, int panel, const float* c) {
        size_t place = size_t(row) * hidden + panel * PANEL;
        for (int j = 0; j < PANEL; j += TILE) {
            __m512 value = load(c + j);
            if (bias) value += load(bias + panel * PANEL + j);
            if (scale)
                store(rows.added + place + j, value);
            else
                store(rows.x + place + j, load(rows.x + place + j) + value);
        }
    });
#pragma omp barrier
    if (!scale) return;
    Share mine = share(rows.count);
    for (int row = mine.begin; row < mine.end; row++) {
        bf16* x = rows.x + size_t(row) * hidden;
        const float* added = rows.added + size_t(row) * hidden;
        __m512 inverse_rms = all(rms(added, hidden, layer.eps));
        for (int i = 0; i < hidden; i += TILE)
            store(x + i, load(x + i) + load(added + i) * inverse_rms * load(scale + i));
    }
}

// Norm, queries, keys and values; rotary embedding of the first two.
static void project(const Layer& layer, const RowBuffers& rows) {
    const int D = layer.width, rotated = layer.heads + layer.kv_heads;
    norm_rows(layer, rows, layer.before_attention);
#pragma omp barrier
    product(rows.normed, layer.hidden + PAD, rows.count, layer.qkv, (rotated + layer.kv_heads) * D / PANEL,
            layer.hidden / PANEL, [&](int row, int panel, const float* c) {
                bf16* out = rows.heads + row * heads_ld(layer) + panel * PANEL;
                const float* bias = layer.qkv_bias ? layer.qkv_bias + panel * PANEL : nullptr;
                for (int j = 0; j < PANEL; j += TILE) store(out + j, bias ? load(c + j) + load(bias + j) : load(c + j));
            });
#pragma omp barrier
    Share mine = share(rows.count);
    for (int row = mine.begin; row < mine.end; row++)
        for (int h = 0; h < rotated; h++)
            rotate(rows.heads + row * heads_ld(layer) + h * D, h < layer.heads ? layer.q_norm : layer.k_norm,
                 rows.cos + size_t(row) * D, rows.sin + size_t(row) * D, D, layer.eps);
}

// The output projection of attention, and the MLP.
static void finish(const Layer& layer, const RowBuffers& rows) {
    add(layer, rows, rows.attended, attended_ld(layer), layer.out, layer.heads * layer.width, layer.out_bias,
        layer.after_attention);
    norm_rows(layer, rows, layer.before_mlp);  // the rows that this thread has just added to
#pragma omp barrier
    product(rows.normed, layer.hidden + PAD, rows.count, layer.gated, 2 * layer.inner / PANEL, layer.hidden / PANEL,
            [&](int row, int panel, const float* c) {
                store(rows.inner + size_t(row) * (layer.inner + PAD) + panel * TILE,
                      activated(load(c), layer.gelu) * load(c + TILE));
            });
#pragma omp barrier
    add(layer, rows, rows.inner, layer.inner + PAD, layer.down, layer.inner, nullptr, layer.after_mlp);
}

// Attention of up to 16 rows of one prompt, in the query heads of one key-value head: to the prompt by products of all
// rows, to its own branch row by row.
static void attend(const Layer& layer, const RowBuffers& rows, const BranchCache& at, int prompt, int kv, int first,
                   int count) {
    const int D = layer.width, P = at.prompt_width, T = at.length + 1, Q = layer.heads / layer.kv_heads;
    const int length = at.prompt_lengths[prompt], window = at.window ? at.window : length + T;
    // The first keys inside of the window.
    const int prompt_start = std::max(0, length + T - window), branch_start = std::max(0, T - window);
    const size_t panels = (size_t(prompt) * layer.kv_heads + kv) * P * D, span = P + (T + TILE - 1) / TILE * TILE;
    alignas(64) float c[TILE * PANEL];
    static thread_local std::vector<float> memory;
    memory.resize(Q * TILE * (span + D + 1) + TILE * (P + PAD) / 2);
    float* scores = memory.data();                    // (Q, 16, span)
    float* sums = scores + Q * TILE * span;           // (Q, 16, D)
    float* normalisers = sums + Q * TILE * D;         // (Q, 16)
    bf16* weights = (bf16*)(normalisers + Q * TILE);  // (16, P), padded
    std::fill(scores, sums, LOWEST);
    const bf16* queries = rows.heads + first * heads_ld(layer) + kv * Q * D;
    for (int i = 0; i < count; i++) {  // fetched while the prompt is attended to
        const size_t own = (size_t(first + i) * layer.kv_heads + kv) * at.capacity * D;
        for (int place = branch_start * D; place < T * D; place += 32) {
            _mm_prefetch(at.keys + own + place, _MM_HINT_T1);
            _mm_prefetch(at.values + own + place, _MM_HINT_T1);
        }
    }
    for (int h = 0; h < Q; h++)
        for (int p = prompt_start / PANEL * PANEL; p < length; p += PANEL) {
            multiply<16>(queries + h * D, heads_ld(layer), at.prompt_keys + panels + size_t(p) * D, D / PANEL, c);
            for (int i = 0; i < count; i++)
                for (int j = std::max(0, prompt_start - p); j < std::min(PANEL, length - p); j++)
                    scores[(h * TILE + i) * span + p + j] = c[i * PANEL + j] * layer.scaling;
        }
    for (int i = 0; i < count; i++) {
        const bf16* keys = at.keys + (size_t(first + i) * layer.kv_heads + kv) * at.capacity * D;
        for (int h = 0; h < Q;)
            h += with_constant_heads(Q - h, [&](auto heads) {
                branch_scores<heads()>(queries + i * heads_ld(layer) + h * D, keys, D, branch_start, T, layer.scaling,
                                       scores + (h * TILE + i) * span + P, TILE * span);
            });
    }
    for (int h = 0; h < Q; h++) {
        for (int i = 0; i < count; i++)
            normalisers[h * TILE + i] = softmax(scores + (h * TILE + i) * span, span, weights + i * (P + PAD), P);
        for (int d = 0; d < D; d += PANEL) {
            multiply<16>(weights, P + PAD, at.prompt_values + panels + size_t(d) * P, P / PANEL, c);
            for (int i = 0; i < count; i++)
                for (int j = 0; j < PANEL; j += TILE)
                    store(sums + (h * TILE + i) * D + d + j, load(c + i * PANEL + j));
        }
    }
    for (int i = 0; i < count; i++) {
        const bf16* values = at.values + (size_t(first + i) * layer.kv_heads + kv) * at.capacity * D;
        for (int h = 0; h < Q;)
            h += with_constant_heads(Q - h, [&](auto heads) {
                int place = h * TILE + i;
                branch_values<heads()>(scores + place * span + P, TILE * span, values, D, branch_start, T,
                                       sums + place * D, TILE * D, normalisers + place, TILE,
                                       rows.attended + (first + i) * attended_ld(layer) + (kv * Q + h) * D);
            });
    }
}

// A layer of decoding: one token per row, which sees its prompt and its own branch.
void decode(const Layer* layer, const RowBuffers* rows, const BranchCache* branches, int threads) {
    const BranchCache& at = *branches;
    const int D = layer->width, rows_per_task = rows->count * layer->kv_heads < 8 * TILE * threads ? TILE / 4 : TILE;
    int most_rows = 0;
    for (int prompt = 0; prompt < at.prompts; prompt++)
        most_rows = std::max(most_rows, at.first_rows[prompt + 1] - at.first_rows[prompt]);
    const int blocks = (most_rows + rows_per_task - 1) / rows_per_task;
#pragma omp parallel num_threads(threads)
    {
        TileConfig config;
        _tile_loadconfig(&config);
        project(*layer, *rows);
        Share mine = share(rows->count);
        for (int row = mine.begin; row < mine.end; row++)
            for (int h = 0; h < layer->kv_heads; h++) {
                const bf16* key = rows->heads + row * heads_ld(*layer) + (layer->heads + h) * D;
                size_t place = ((size_t(row) * layer->kv_heads + h) * at.capacity + at.length) * D;
                std::memcpy(at.keys + place, key, D * 2);
                std::memcpy(at.values + place, key + layer->kv_heads * D, D * 2);
            }
#pragma omp barrier
#pragma omp for collapse(2) schedule(static)
        for (int prompt = 0; prompt < at.prompts; prompt++)
            for (int block = 0; block < blocks; block++)
                for (int kv = 0; kv < layer->kv_heads; kv++) {
                    int row = at.first_rows[prompt] + block * rows_per_task, end = at.first_rows[prompt + 1];
                    if (row < end) attend(*layer, *rows, at, prompt, kv, row, std::min(rows_per_task, end - row));
                }
        finish(*layer, *rows);
        _tile_release();
    }
}

static size_t panels_of(const Layer& layer, const Sequences& seqs, int s, int kv) {
    return (size_t(seqs.padded_first[s]) * layer.kv_heads + size_t(kv) * padded(seqs.length[s])) * layer.width;
}

// One sequence's keys and values of one head, as two weights: tokens x width, and width x tokens.
static void lay_out(const Layer& layer, const RowBuffers& rows, const Sequences& seqs, int s, int kv) {
    const int D = layer.width, length = seqs.length[s], L = padded(length);
    const size_t ld = heads_ld(layer), panels = panels_of(layer, seqs, s, kv);
    const bf16* key = rows.heads + seqs.first[s] * ld + (layer.heads + kv) * D;
    const bf16* value = key + layer.kv_heads * D;
    const __m512i row_offsets = _mm512_mullo_epi32(_mm512_set1_epi32(int(ld / 2)), lane_numbers());
    bf16 *keys = seqs.keys + panels, *values = seqs.values + panels;
    for (int t = 0; t < L; t += TILE)
        for (int d = 0; d < D; d += PANEL)
            for (int i = 0; i < TILE; i++)
                _mm512_storeu_si512(keys + (t / PANEL * (D / PANEL) + d / PANEL) * STEP + t % PANEL * TILE * 2 + i * 32,
                                    _mm512_i32gather_epi32(row_offsets, (const int32_t*)(key + t * ld + d) + i, 4));
    for (int d = 0; d < D; d += TILE)
        for (int t = 0; t < L; t += 2) {
            __m512i pair = _mm512_setzero_si512();  // zero times NaN would be NaN
            if (t < length) pair = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(value + t * ld + d)));
            if (t + 1 < length) {
                const __m256i* next = (const __m256i*)(value + (t + 1) * ld + d);
                pair = _mm512_or_si512(pair, _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(next)), 16));
            }
            _mm512_storeu_si512(values + (d / PANEL * (L / PANEL) + t / PANEL) * STEP + d % PANEL * TILE * 2 +
                                    t % PANEL / 2 * 32, pair);
        }
}

// Attention of up to 32 tokens of a sequence, from its `from`-th on, in the query heads of one key-value head.
static void attend_sequence(const Layer& layer, const RowBuffers& rows, const Sequences& seqs, int s, int from,
                            int kv) {
    const int D = layer.width, Q = layer.heads / layer.kv_heads, count = std::min(PANEL, seqs.length[s] - from);
    const int parent = seqs.parent[s], before = parent < 0 ? 0 : seqs.length[parent];
    const int P = padded(before), span = P + padded(from + count), L = padded(seqs.length[s]);
    const int window = seqs.window ? seqs.window : before + seqs.length[s];
    const bf16* queries = rows.heads + (seqs.first[s] + from) * heads_ld(layer) + kv * Q * D;
    const size_t own_panels = panels_of(layer, seqs, s, kv);
    const size_t parent_panels = parent < 0 ? own_panels : panels_of(layer, seqs, parent, kv);
    alignas(64) float c[PANEL * PANEL], c_own[PANEL * PANEL];
    static thread_local std::vector<float> memory;
    memory.resize(PANEL * span + PANEL * (span + PAD) / 2 + PANEL);
    float* scores = memory.data();
    float* normalisers = scores + PANEL * span;
    bf16* weights = (bf16*)(normalisers + PANEL);
    for (int h = 0; h < Q; h++) {
        std::fill(scores, normalisers, LOWEST);
        for (int j = 0; j < span; j += PANEL) {
            // Keys from here on stand at these positions; the query of row i at `at` + i.
            const int at = before + from, position = j < P ? j : before + j - P, end = j < P ? before : at + count;
            if (position + PANEL <= at + 1 - window) continue;
            const bf16* keys = seqs.keys + (j < P ? parent_panels + size_t(j) * D : own_panels + size_t(j - P) * D);
            multiply<32>(queries + h * D, heads_ld(layer), keys, D / PANEL, c);
            for (int i = 0; i < count; i++) {
                int low = std::max(0, at + i + 1 - window - position);
                int high = std::min(PANEL, std::min(end, at + i + 1) - position);
                for (int k = low; k < high; k++) scores[i * span + j + k] = c[i * PANEL + k] * layer.scaling;
            }
        }
        for (int i = 0; i < count; i++)
            normalisers[i] = softmax(scores + i * span, span, weights + i * (span + PAD), span);
        for (int d = 0; d < D; d += PANEL) {
            multiply<32>(weights + P, span + PAD, seqs.values + own_panels + size_t(d) * L, (span - P) / PANEL, c_own);
            multiply<32>(weights, span + PAD, seqs.values + parent_panels + size_t(d) * P, P / PANEL, c);
            for (int i = 0; i < count; i++) {
                bf16* out = rows.attended + (seqs.first[s] + from + i) * attended_ld(layer) + (kv * Q + h) * D + d;
                for (int j = 0; j < PANEL; j += TILE)
                    store(out + j, (load(c + i * PANEL + j) + load(c_own + i * PANEL + j)) * all(1 / normalisers[i]));
            }
        }
    }
}

static RowBuffers row_block(const Layer& layer, const RowBuffers& rows, int first) {
    RowBuffers block = rows;
    block.x += size_t(first) * layer.hidden;
    block.cos += size_t(first) * layer.width;
    block.sin += size_t(first) * layer.width;
    block.heads += first * heads_ld(layer);
    block.attended += first * attended_ld(layer);
    block.count = std::min(ROW_BLOCK, rows.count - first);
    return block;
}

// A layer on packed sequences of any number of tokens, each of which sees its parent and its own past.
void forward(const Layer* layer, const RowBuffers* rows, const Sequences* sequences, int threads) {
    std::vector<std::pair<int, int>> blocks;
    for (int s = 0; s < sequences->count; s++)
        for (int from = 0; from < sequences->length[s]; from += PANEL) blocks.emplace_back(s, from);
#pragma omp parallel num_threads(threads)
    {
        TileConfig config;
        _tile_loadconfig(&config);
        for (int first = 0; first < rows->count; first += ROW_BLOCK) {
            project(*layer, row_block(*layer, *rows, first));
#pragma omp barrier
        }
#pragma omp for collapse(2) schedule(dynamic)
        for (int s = 0; s < sequences->count; s++)
            for (int kv = 0; kv < layer->kv_heads; kv++) lay_out(*layer, *rows, *sequences, s, kv);
#pragma omp for collapse(2) schedule(dynamic)
        for (size_t block = 0; block < blocks.size(); block++)
            for (int kv = 0; kv < layer->kv_heads; kv++)
                attend_sequence(*layer, *rows, *sequences, blocks[block].first, blocks[block].second, kv);
        for (int first = 0; first < rows->count; first += ROW_BLOCK) {
            finish(*layer, row_block(*layer, *rows, first));
#pragma omp barrier
        }
        _tile_release();
    }
}

// Sixteen logits after softcap, temperature and mask.
static inline __m512 final_logits(const Head& head, int panel, const float* logits, int half) {
    __m512 value = load(logits + half * TILE);
    if (head.softcap > 0) value = all(head.softcap) * (all(2) * sigmoid(all(2 / head.softcap) * value) - all(1));
    value = value * all(head.scale);
    return _mm512_mask_mov_ps(value, __mmask16(head.masked_ids[panel] >> (half * TILE)), all(LOWEST));
}

// The sum of exp(logit - reference) over a panel.  The reference is the panel's largest logit if `exact`, and else an
// earlier one that is not much smaller: finding the largest takes longer than the sum.
static inline float exp_sum(const Head& head, int panel, const float* logits, float& reference, bool exact) {
    __m512 low = final_logits(head, panel, logits, 0), high = final_logits(head, panel, logits, 1);
    __m512 largest = _mm512_max_ps(low, high);
    if (exact || _mm512_cmp_ps_mask(largest, all(reference + 30), _CMP_GT_OQ))
        reference = _mm512_reduce_max_ps(largest);
    if (reference <= LOWEST) return 0;
    return _mm512_reduce_add_ps(exponential(low - all(reference)) + exponential(high - all(reference)));
}

// The logits of one row and panel.
static void logits_of(const Head& head, int row, int panel, float* logits) {
    const int steps = head.width / PANEL;
    const bf16* weight = head.weight + size_t(panel) * steps * STEP;
    const int32_t* pairs = (const int32_t*)(head.hidden + size_t(row) * (head.width + PAD));
    __m512 low = _mm512_setzero_ps(), high = _mm512_setzero_ps();
    for (int s = 0; s < steps; s++)
        for (int i = 0; i < TILE; i++) {
            __m512bh pair = (__m512bh)_mm512_set1_epi32(pairs[s * TILE + i]);
            const bf16* at = weight + s * STEP + i * 32;
            low = _mm512_dpbf16_ps(low, pair, (__m512bh)_mm512_loadu_si512(at));
            high = _mm512_dpbf16_ps(high, pair, (__m512bh)_mm512_loadu_si512(at + STEP / 2));
        }
    store(logits, low);
    store(logits + TILE, high);
    for (int half = 0; half < 2; half++) store(logits + half * TILE, final_logits(head, panel, logits, half));
}

static void draw_row(const Head& head, int row) {
    const int panels = padded(head.vocabulary) / PANEL;
    float *peaks = head.peaks + size_t(row) * panels, *sums = head.sums + size_t(row) * panels;
    int chosen = int(std::max_element(peaks, peaks + panels) - peaks);
    const float most = peaks[chosen];
    double total = 0, before = 0, point = 0;
    int p = 0;
    for (; p + TILE <= panels; p += TILE) {
        __m512 weight = load(sums + p) * exponential(load(peaks + p) - all(most));
        store(sums + p, weight);
        total += _mm512_reduce_add_ps(weight);
    }
    for (; p < panels; p++) total += sums[p] *= exponential(peaks[p] - most);
    if (head.uniforms) {
        // The panel in which the cumulative probability passes the uniform number; rounding may point past the last.
        point = head.uniforms[row] * total;
        double sum = 0;
        for (p = 0; p < panels && sum <= point; p++) {
            if (sums[p] > 0) chosen = p, before = sum;
            sum += sums[p];
        }
    }
    alignas(64) float logits[PANEL];
    logits_of(head, row, chosen, logits);
    int entry = int(std::max_element(logits, logits + PANEL) - logits);
    if (head.uniforms) {
        double weights[PANEL], inner = 0, sum = 0;
        for (int j = 0; j < PANEL; j++) inner += weights[j] = exponential(logits[j] - peaks[chosen]);
        const double depth = (point - before) / sums[chosen] * inner;  // where in the panel the point is
        for (int j = 0; j < PANEL && sum <= depth; j++) {
            if (weights[j] > 0) entry = j;
            sum += weights[j];
        }
    }
    head.ids[row] = int64_t(chosen) * PANEL + entry;
    head.logprobs[row] = float(double(logits[entry]) - most - std::log(total));
}

// One token per row, by inverting the distribution function at a uniform number: the panel first, then inside it.
void draw(const Head* given, int threads) {
    const Head& head = *given;
    const int panels = padded(head.vocabulary) / PANEL;
#pragma omp parallel num_threads(threads)
    {
        TileConfig config;
        _tile_loadconfig(&config);
        std::vector<float> references(head.rows, LOWEST);
        product(head.hidden, head.width + PAD, head.rows, head.weight, panels, head.width / PANEL,
                [&](int row, int p, const float* logits) {
                    size_t place = size_t(row) * panels + p;
                    head.sums[place] = exp_sum(head, p, logits, references[row], !head.uniforms);
                    head.peaks[place] = references[row];
                });
        _tile_release();
#pragma omp barrier
        Share mine = share(head.rows);
        for (int row = mine.begin; row < mine.end; row++) draw_row(head, row);
    }
}

// The log-probability of a given token of each row.
void score(const Head* given, int threads) {
    const Head& head = *given;
    const int panels = padded(head.vocabulary) / PANEL;
    std::fill(head.peaks, head.peaks + size_t(threads) * head.rows, LOWEST);
    std::fill(head.sums, head.sums + size_t(threads) * head.rows, 0.0f);
#pragma omp parallel num_threads(threads)
    {
        TileConfig config;
        _tile_loadconfig(&config);
        for (int first = 0; first < head.rows; first += ROW_BLOCK) {
            size_t place = size_t(omp_get_thread_num()) * head.rows + first;
            float *peaks = head.peaks + place, *sums = head.sums + place;
            product(head.hidden + size_t(first) * (head.width + PAD), head.width + PAD,
                    std::min(ROW_BLOCK, head.rows - first), head.weight, panels, head.width / PANEL,
                    [&](int row, int p, const float* logits) {
                        float before = peaks[row], sum = exp_sum(head, p, logits, peaks[row], false);
                        if (peaks[row] != before) sums[row] *= exponential(before - peaks[row]);
                        sums[row] += sum;
                    });
        }
        _tile_release();
#pragma omp barrier
        Share mine = share(head.rows);
        for (int row = mine.begin; row < mine.end; row++) {
            float most = LOWEST;
            double total = 0;
            for (int t = 0; t < omp_get_num_threads(); t++)
                most = std::max(most, head.peaks[size_t(t) * head.rows + row]);
            for (int t = 0; t < omp_get_num_threads(); t++) {
                size_t place = size_t(t) * head.rows + row;
                total += double(head.sums[place]) * exponential(head.peaks[place] - most);
            }
            alignas(64) float logits[PANEL];
            logits_of(head, row, int(head.ids[row] / PANEL), logits);
            head.logprobs[row] = float(double(logits[head.ids[row] % PANEL]) - most - std::log(total));
        }
    }
}

}  // extern "C"
