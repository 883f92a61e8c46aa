/* TestU01 on the generator of training noise, physnn/noise/hashed.py.

   Words 0 to WORDS - 1 of one key, then those of the next; keys are threefry's, as
   jax.random.split derives them (in both, the 64 bits of a key's number are hashed).

     gcc -O2 -o crush tests/benchmarks/crush.c -ltestu01 -ltestu01probdist -ltestu01mylib -lm
     ./crush words                four of each of two keys, to compare with JAX
     ./crush small|crush|big [LOG2_WORDS]
*/
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <testu01/bbattery.h>
#include <testu01/unif01.h>

static uint32_t root[2] = {1797259609u, 2579123966u}; /* jax.random.key(0, impl=HASHED) */
static uint32_t key[2], counter, words = 1u << 12;
static uint64_t n_keys;

static uint32_t rotated(uint32_t x, int by) { return x << by | x >> (32 - by); }

static void threefry(const uint32_t k[2], uint32_t a, uint32_t b, uint32_t out[2]) {
  static const int turns[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  uint32_t ks[3] = {k[0], k[1], k[0] ^ k[1] ^ 0x1BD11BDAu};
  a += ks[0], b += ks[1];
  for (int five = 0; five < 5; five++) {
    for (int i = 0; i < 4; i++) a += b, b = rotated(b, turns[five % 2][i]) ^ a;
    a += ks[(five + 1) % 3], b += ks[(five + 2) % 3] + five + 1;
  }
  out[0] = a, out[1] = b;
}

static void next_key(void) {
  threefry(root, (uint32_t)(n_keys >> 32), (uint32_t)n_keys, key);
  n_keys++, counter = 0;
}

static unsigned int next(void) {
  if (counter == words) next_key();
  uint32_t x = counter++ + key[0];
  x = (x ^ x >> 17) * 0xED5AD4BBu;
  x = (x ^ x >> 11) + key[1];
  x *= 0xAC4C1B51u;
  x = (x ^ x >> 15) * 0x31848BABu;
  return x ^ x >> 14;
}

int main(int n, char **given) {
  const char *what = n > 1 ? given[1] : "small";
  next_key();
  if (!strcmp(what, "words")) {
    for (int k = 0; k < 2; k++, next_key())
      for (int i = 0; i < 4; i++) printf("%u\n", next());
    return 0;
  }
  if (n > 2) words = 1u << atoi(given[2]);
  unif01_Gen *gen = unif01_CreateExternGenBits("triple32 under keys of threefry", next);
  if (!strcmp(what, "big")) bbattery_BigCrush(gen);
  else if (!strcmp(what, "crush")) bbattery_Crush(gen);
  else bbattery_SmallCrush(gen);
  unif01_DeleteExternGenBits(gen);
  return 0;
}
