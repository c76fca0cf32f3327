/* Products of float32 inputs with packed weights, in float32. Vectors of eight are the compiler's own type, so that the
   same lines serve every processor; `native.py` compiles this file where it runs.

   4-bit codes: 64 inputs of one output are eight words of 32 bits; word j holds in its nibble k the code of input
   8 k + j. A nibble is masked where it stands and never shifted down: its factor 16^k goes into the input instead, which
   is exact. (The last nibble would be the sign; it is shifted.) A weight is scale * code + offset, in groups of 32 or of a
   multiple of 64; the offset meets only the sum of a group's inputs. */

#include <stdint.h>
#include <string.h>

typedef float f8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef uint32_t u8 __attribute__((vector_size(32)));

/* Rows that share one reading of the weights. */
#define TILE 4
/* Words of an output: with groups of 32 the last eight may be half empty. */
#define WORDS(inputs) (((inputs) + 63) / 64 * 8)

static inline f8 load_f(const float *from) { f8 v; memcpy(&v, from, sizeof v); return v; }
static inline u8 load_u(const void *from) { u8 v; memcpy(&v, from, sizeof v); return v; }
static inline float total(f8 v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }

/* The eight codes of nibble k, times 16^k (k = 7: times 1). */
static inline f8 nibble(u8 words, int k) {
    u8 masked = k == 7 ? words >> 28 : words & (u8)((u8){} + (0xFu << (4 * k)));
    return __builtin_convertvector((i8)masked, f8);
}

/* `inputs` numbers of `rows` rows as the products want them, and the sum of each group. */
static void prepare(const float *x, float *scaled, float *sums, long rows, long inputs, long group) {
    for (long r = 0; r < rows; r++)
        for (long g = 0; g < inputs / group; g++) {
            f8 sum = {};
            for (long at = g * group; at < (g + 1) * group; at += 8) {
                long k = at / 8 % 8;
                f8 value = load_f(x + r * inputs + at);
                sum += value;
                value *= k == 7 ? 1.0f : 1.0f / (float)(1u << (4 * k));
                memcpy(scaled + r * WORDS(inputs) * 8 + at, &value, sizeof value);
            }
            sums[r * (inputs / group) + g] = total(sum);
        }
}

/* `here` plus the codes of nibbles `from` to `to` times their inputs; `x` is where the first nibble's input stands. */
static inline void add(f8 *here, u8 words, const float *x, int from, int to, long rows, long stride, int chains) {
    for (int k = from; k < to; k++) {
        f8 value = nibble(words, k);
        for (long r = 0; r < rows; r++) here[r * chains + k % chains] += value * load_f(x + r * stride + 8 * k);
    }
}

static inline void one_output(const float *x, const float *sums, const uint32_t *codes, const _Float16 *scales,
                              const _Float16 *offsets, float *y, long rows, long inputs, long group, long outputs) {
    /* Sums side by side, so that one need not wait for the last: few rows have more of them. */
    const int chains = rows == 1 ? 4 : rows == 2 ? 2 : 1;
    long groups = inputs / group, stride = WORDS(inputs) * 8;
    f8 kept[TILE] = {};
    float rest[TILE] = {};
    for (long g = 0; g < groups; g++) {
        f8 here[TILE] = {};
        if (group == 32) {
            u8 words = load_u(codes + g / 2 * 8);
            const float *from = x + g / 2 * 64;
            if (g % 2) add(here, words, from, 4, 8, rows, stride, chains);
            else add(here, words, from, 0, 4, rows, stride, chains);
        } else
            for (long at = g * group; at < (g + 1) * group; at += 64)
                add(here, load_u(codes + at / 8), x + at, 0, 8, rows, stride, chains);
        float scale = (float)scales[g], offset = (float)offsets[g];
        for (long r = 0; r < rows; r++) {
            f8 sum = here[r * chains];
            for (int other = 1; other < chains; other++) sum += here[r * chains + other];
            kept[r] += sum * scale;
            rest[r] += offset * sums[r * groups + g];
        }
    }
    for (long r = 0; r < rows; r++) y[r * outputs] = total(kept[r]) + rest[r];
}

/* y [rows, outputs] = x W^T; `scratch` has room for x, in whole words, and for the sums of its groups. */
void multiply_int4(const float *x, float *scratch, const uint32_t *codes, const _Float16 *scales,
                   const _Float16 *offsets, float *y, long rows, long inputs, long outputs, long group, int threads) {
    long words = WORDS(inputs), groups = inputs / group;
    float *scaled = scratch, *sums = scratch + rows * words * 8;
    prepare(x, scaled, sums, rows, inputs, group);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long n = 0; n < outputs; n++)
        for (long r = 0; r < rows; r += TILE) {
            const float *row = scaled + r * words * 8, *s = sums + r * groups;
            const uint32_t *c = codes + n * words;
            const _Float16 *a = scales + n * groups, *b = offsets + n * groups;
            float *to = y + r * outputs + n;
            long left = rows - r;
            if (left == 1) one_output(row, s, c, a, b, to, 1, inputs, group, outputs);
            else if (left >= TILE) one_output(row, s, c, a, b, to, TILE, inputs, group, outputs);
            else if (left == 2) one_output(row, s, c, a, b, to, 2, inputs, group, outputs);
            else one_output(row, s, c, a, b, to, 3, inputs, group, outputs);
        }
}

/* The weights themselves, [outputs, inputs]. */
void dequantize_int4(const uint32_t *codes, const _Float16 *scales, const _Float16 *offsets, float *weights,
                     long inputs, long outputs, long group, int threads) {
    long groups = inputs / group;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long n = 0; n < outputs; n++)
        for (long g = 0; g < groups; g++) {
            float scale = (float)scales[n * groups + g], offset = (float)offsets[n * groups + g];
            for (long at = g * group; at < (g + 1) * group; at += 32) {
                u8 words = load_u(codes + n * WORDS(inputs) + at / 64 * 8);
                for (int k = 0; k < 4; k++) {
                    int place = at % 64 ? k + 4 : k;
                    float factor = place == 7 ? 1.0f : 1.0f / (float)(1u << (4 * place));
                    f8 value = (place < 4 ? nibble(words, k) : nibble(words, k + 4)) * (factor * scale) + offset;
                    memcpy(weights + n * inputs + at + 8 * k, &value, sizeof value);
                }
            }
        }
}

/* y [rows, outputs] = x W^T for bfloat16 weights, given as their bits; `inputs` is a multiple of 32. `parted` has room
   for the inputs, which are put in the order of even and odd halves of a word. */
void multiply_bfloat16(const float *x, float *parted, const uint16_t *weights, float *y, long rows, long inputs,
                       long outputs, int threads) {
    for (long at = 0; at < rows * inputs; at += 16)
        for (long j = 0; j < 8; j++) {
            parted[at + j] = x[at + 2 * j];
            parted[at + 8 + j] = x[at + 2 * j + 1];
        }
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long n = 0; n < outputs; n++)
        for (long r = 0; r < rows; r++) {
            f8 sums[4] = {};
            for (long at = 0; at < inputs; at += 32)
                for (int half = 0; half < 2; half++) {
                    u8 words = load_u(weights + n * inputs + at + 16 * half);
                    const float *here = parted + r * inputs + at + 16 * half;
                    sums[2 * half] += (f8)(words << 16) * load_f(here);
                    sums[2 * half + 1] += (f8)(words & 0xFFFF0000u) * load_f(here + 8);
                }
            y[r * outputs + n] = total((sums[0] + sums[1]) + (sums[2] + sums[3]));
        }
}
