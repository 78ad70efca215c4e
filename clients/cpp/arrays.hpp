// Files of a bundle: arrays in npy, hashes of values.
#pragma once
#include <openssl/evp.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

using json = nlohmann::ordered_json;
using Error = std::runtime_error;
const double NONE = std::numeric_limits<double>::quiet_NaN();

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string sha256(const std::string& raw) {
  unsigned char digest[32];
  EVP_Digest(raw.data(), raw.size(), digest, nullptr, EVP_sha256(), nullptr);
  std::string hex;
  for (unsigned char byte : digest) hex += "0123456789abcdef"[byte >> 4], hex += "0123456789abcdef"[byte & 15];
  return hex;
}

inline float from_half(uint16_t bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float size = exponent ? std::ldexp(1 + fraction / 1024.f, exponent - 15) : std::ldexp(float(fraction), -24);
  return bits >> 15 ? -size : size;
}

// The nearest float16 of a number within its range, ties to even.
inline float round_to_half(double x) {
  int exponent = x == 0 ? 0 : std::ilogb(x);
  return std::ldexp(std::nearbyint(std::ldexp(x, 10 - std::max(exponent, -14))), std::max(exponent, -14) - 10);
}

struct Array {
  std::string raw, type;
  std::vector<int64_t> shape;
  size_t from = 0;
  template <class T> const T* as() const { return reinterpret_cast<const T*>(raw.data() + from); }
  int64_t count() const { int64_t n = 1; for (int64_t size : shape) n *= size; return n; }
  std::vector<int64_t> whole() const {  // of 32 or 64 bits
    if (type == "i4") return {as<int32_t>(), as<int32_t>() + count()};
    return {as<int64_t>(), as<int64_t>() + count()};
  }
  float number(int64_t n) const { return type == "f2" ? from_half(as<uint16_t>()[n]) : type == "i1" ? as<int8_t>()[n] : as<float>()[n]; }
};

inline Array read_array(const std::string& path) {
  static const std::regex form(R"(\{'descr': '[|<]([biuf][1248])', 'fortran_order': False, 'shape': \(([\d, ]*)\), \} *\n)");
  Array array{read_file(path), {}, {}};
  const std::string& raw = array.raw;
  if (raw.size() < 10 || raw.compare(0, 8, std::string("\x93NUMPY\x01\x00", 8))) throw Error(path + ": no npy file of a bundle");
  array.from = 10 + uint8_t(raw[8]) + 256 * uint8_t(raw[9]);
  std::smatch found;
  std::string header = raw.substr(10, array.from - 10);
  if (!std::regex_match(header, found, form)) throw Error(path + ": no npy file of a bundle");
  array.type = found[1];
  std::stringstream sizes(found[2]);
  for (std::string size; std::getline(sizes, size, ',');) if (size.find_first_not_of(' ') != size.npos) array.shape.push_back(std::stoll(size));
  if (raw.size() != array.from + array.count() * (array.type[1] - '0')) throw Error(path + ": damaged");
  return array;
}

// SplitMix64's finaliser.
inline uint64_t splitmix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

// Mix hashes into one, 0 if any is 0.
inline uint64_t mix(const std::vector<uint64_t>& hashes) {
  uint64_t found = hashes[0];
  for (uint64_t hash : hashes) if (!hash) return 0;
  if (hashes.size() == 1) return found;
  for (size_t n = 1; n < hashes.size(); n++) found = splitmix(found) ^ hashes[n];
  found = splitmix(found);
  return found ? found : 1;
}

// BLAKE2b of 8 bytes (RFC 7693), as a little-endian number.
inline uint64_t blake(const std::string& text) {
  static const uint64_t iv[8] = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                                 0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
  static const char* sigma[12] = {"0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d", "2c6a0b834d75fe19",
                                  "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0", "0123456789abcdef", "ea489fd61c02b753"};
  uint64_t h[8], m[16], v[16];
  std::memcpy(h, iv, 64);
  h[0] ^= 0x01010008;
  auto turn = [](uint64_t x, int by) { return x >> by | x << (64 - by); };
  size_t blocks = std::max<size_t>(1, (text.size() + 127) / 128);
  std::string padded = text;
  padded.resize(blocks * 128);
  for (size_t block = 0; block < blocks; block++) {
    std::memcpy(m, padded.data() + block * 128, 128), std::memcpy(v, h, 64), std::memcpy(v + 8, iv, 64);
    bool last = block == blocks - 1;
    v[12] ^= last ? text.size() : (block + 1) * 128;
    if (last) v[14] = ~v[14];
    for (const char* s : sigma) {
      auto word = [&](int n) { return m[s[n] <= '9' ? s[n] - '0' : s[n] - 'a' + 10]; };
      for (int n = 0; n < 8; n++) {
        int shift = n / 4, a = n % 4, b = (a + shift) % 4 + 4, c = (a + 2 * shift) % 4 + 8, d = (a + 3 * shift) % 4 + 12;
        v[a] += v[b] + word(2 * n), v[d] = turn(v[d] ^ v[a], 32), v[c] += v[d], v[b] = turn(v[b] ^ v[c], 24);
        v[a] += v[b] + word(2 * n + 1), v[d] = turn(v[d] ^ v[a], 16), v[c] += v[d], v[b] = turn(v[b] ^ v[c], 63);
      }
    }
    for (int n = 0; n < 8; n++) h[n] ^= v[n] ^ v[n + 8];
  }
  return h[0];
}

// The hash by which derived features tell values apart: of whole numbers and texts, 0 for null.
inline uint64_t hash_value(const json& id) {
  if (id.is_null()) return 0;
  uint64_t found = id.is_string() ? blake(id.get<std::string>()) : splitmix(uint64_t(id.get<int64_t>()));
  return found ? found : 1;
}
