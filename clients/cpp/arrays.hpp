// Files of a bundle: arrays in npy; hashes of values.
#pragma once
#include <openssl/evp.h>
#include <openssl/params.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

using json = nlohmann::ordered_json;
using Error = std::runtime_error;
using Floats = std::vector<float>;
using Hashes = std::vector<uint64_t>;
const double NONE = std::numeric_limits<double>::quiet_NaN();

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

// The bytes of OpenSSL's digest of a text, as many as it has unless `size` says how many.
inline std::string digest(const char* algorithm, const std::string& text, size_t size = 0) {
  unsigned char found[EVP_MAX_MD_SIZE];
  unsigned int length = size;
  OSSL_PARAM sized[] = {OSSL_PARAM_construct_size_t("size", &size), OSSL_PARAM_construct_end()};
  std::unique_ptr<EVP_MD, void (*)(EVP_MD*)> type(EVP_MD_fetch(nullptr, algorithm, nullptr), EVP_MD_free);
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> state(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (!EVP_DigestInit_ex2(state.get(), type.get(), size ? sized : nullptr) || !EVP_DigestUpdate(state.get(), text.data(), text.size()) ||
      !EVP_DigestFinal_ex(state.get(), found, &length) || (size && size != length)) throw Error(std::string(algorithm) + ": needs OpenSSL 3.2");
  return {found, found + length};
}

inline std::string sha256(const std::string& raw) {
  std::string hex;
  for (unsigned char byte : digest("SHA256", raw)) hex += "0123456789abcdef"[byte >> 4], hex += "0123456789abcdef"[byte & 15];
  return hex;
}

inline float from_half(uint16_t bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float size = exponent ? std::ldexp(1 + fraction / 1024.f, exponent - 15) : std::ldexp(float(fraction), -24);
  return bits >> 15 ? -size : size;
}

// The nearest float16 of a number within its range, ties to even.
inline float round_to_half(double x) {
  int exponent = std::max(x == 0 ? 0 : std::ilogb(x), -14);
  return std::ldexp(std::nearbyint(std::ldexp(x, 10 - exponent)), exponent - 10);
}

// Numbers in rows.
template <class T> struct Matrix {
  std::vector<T> data;
  size_t width = 1;
  const T* row(int64_t n) const { return data.data() + n * width; }
  const T& operator[](int64_t n) const { return data[n]; }
};

// The numbers of an npy file, as T.
template <class T> Matrix<T> read_array(const std::string& path) {
  static const std::regex form(R"(\{'descr': '[|<]([biuf][1248])', 'fortran_order': False, 'shape': \((\d+),? ?(\d*)\), \} *\n)");
  const std::string raw = read_file(path), start = raw.substr(0, 8);
  const size_t from = raw.size() < 10 ? 0 : 10 + uint8_t(raw[8]) + 256 * uint8_t(raw[9]);
  const std::string header = raw.substr(std::min<size_t>(10, from), from - std::min<size_t>(10, from));
  std::smatch found;
  if (start != std::string("\x93NUMPY\x01\x00", 8) || !std::regex_match(header, found, form)) throw Error(path + ": no npy file of a bundle");
  Matrix<T> matrix{{}, found[2].length() && found[3].length() ? std::stoul(found[3]) : 1};
  auto read = [&](auto type, auto convert) {
    const auto* data = reinterpret_cast<const decltype(type)*>(raw.data() + from);
    const size_t count = std::stoul(found[2]) * matrix.width;
    if (raw.size() != from + count * sizeof(type)) throw Error(path + ": damaged");
    for (size_t n = 0; n < count; n++) matrix.data.push_back(convert(data[n]));
  };
  auto same = [](auto x) { return T(x); };
  const std::string type = found[1];
  if (type == "f2") read(uint16_t(), from_half);
  else if (type == "f4") read(float(), same);
  else if (type == "f8") read(double(), same);
  else if (type == "i1") read(int8_t(), same);
  else if (type == "i4") read(int32_t(), same);
  else if (type == "i8") read(int64_t(), same);
  else if (type == "u8") read(uint64_t(), same);
  else read(uint8_t(), same);
  return matrix;
}

// SplitMix64's finaliser.
inline uint64_t splitmix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

// Mix hashes into one, 0 if any is 0.
inline uint64_t mix(const Hashes& hashes) {
  uint64_t found = hashes[0];
  for (uint64_t hash : hashes) if (!hash) return 0;
  if (hashes.size() == 1) return found;
  for (size_t n = 1; n < hashes.size(); n++) found = splitmix(found) ^ hashes[n];
  found = splitmix(found);
  return found ? found : 1;
}

// The hash of an identifier, a whole number or text: BLAKE2b of 8 bytes, as a little-endian number, or splitmix64.
inline uint64_t hash_id(const json& id) {
  if (!id.is_string()) return splitmix(uint64_t(id.get<int64_t>()));
  uint64_t found;
  std::memcpy(&found, digest("BLAKE2B-512", id.get<std::string>(), 8).data(), 8);
  return found;
}

// The hash by which derived features tell identifiers apart, 0 for null.
inline uint64_t hash_value(const json& id) {
  const uint64_t found = id.is_null() ? 0 : hash_id(id);
  return found || id.is_null() ? found : 1;
}
