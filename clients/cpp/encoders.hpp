// Fitted encoders: raw values → codes, numbers, vectors, and the operands of derived features.
#pragma once
#include <algorithm>
#include <ctime>
#include <memory>
#include <unordered_map>

#include "arrays.hpp"

enum { MISSING, UNKNOWN, FIRST };
using Vector = std::vector<float>;  // empty: missing
using Hashes = std::vector<uint64_t>;
struct List { std::vector<int> values; std::vector<float> weights; bool weighted = false; };
struct Encoded { int code = 0; float number = 0; List list; Vector vector; };
struct Row { std::vector<int> ids; std::vector<float> numbers; std::vector<List> lists; std::vector<Vector> vectors; };
struct Operands {
  std::map<std::string, uint64_t> keys;
  std::map<std::string, Hashes> lists;
  std::map<std::string, double> numbers;
  std::map<std::string, Vector> vectors;
};
using Columns = std::map<std::string, Encoded>;

// Ids, whole numbers or text, and where each is.
struct Index {
  bool text = false;
  size_t count = 0;
  std::unordered_map<int64_t, int> numbers;
  std::unordered_map<std::string, int> texts;
  int find(const json& id) const {
    if (id.is_null() || id.is_string() != text) return -1;
    if (text) { auto at = texts.find(id.get_ref<const std::string&>()); return at == texts.end() ? -1 : at->second; }
    return find(id.get<int64_t>());
  }
  int find(int64_t id) const { auto at = numbers.find(id); return at == numbers.end() ? -1 : at->second; }
};

inline json to_id(const json& value) {
  if (value.is_null() || value.is_string() || value.is_number_integer()) return value;
  if (value.is_boolean()) return int64_t(value.get<bool>());
  if (value.is_number_float() && value.get<double>() == std::floor(value.get<double>())) return int64_t(value.get<double>());
  throw Error("expected whole numbers or text; received " + value.dump());
}

inline double to_number(const json& value) {
  if (value.is_null()) return NONE;
  if (!value.is_number() && !value.is_boolean()) throw Error("expected numbers; received " + value.dump());
  return value.is_boolean() ? value.get<bool>() : value.get<double>();
}

inline std::string strip(const std::string& text) {
  size_t from = text.find_first_not_of(" \t\r\n\v\f"), to = text.find_last_not_of(" \t\r\n\v\f");
  return from == text.npos ? "" : text.substr(from, to - from + 1);
}

inline json split(const std::string& text, const std::string& separator) {
  json parts = json::array();
  for (size_t from = 0, to;; from = to + separator.size()) {
    to = text.find(separator, from);
    parts.push_back(text.substr(from, to - from));
    if (to == text.npos) return parts;
  }
}

// The single values of a list, or of a text with a separator, without nulls and blanks.
inline std::vector<json> to_list(const json& value, const json& separator) {
  std::vector<json> found;
  if (value.is_null()) return found;
  json held = value.is_string() && separator.is_string() ? split(value, separator) : value;
  if (!held.is_array()) throw Error("expected lists; received " + value.dump());
  for (const json& one : held) {
    if (one.is_null()) continue;
    if (separator.is_null()) { found.push_back(to_id(one)); continue; }
    std::string text = strip(one.is_string() ? one.get<std::string>() : one.dump());
    if (!text.empty()) found.push_back(text);
  }
  return found;
}

// ISO 8601 (UTC without a zone), or ms since 1970.
inline int64_t to_time(const json& value, bool digits = false) {
  static const std::regex form(R"((\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d(?:\.\d{1,6})?))?(?:Z|([+-])(\d\d):(\d\d))?)?)"), whole(R"(-?\d+)");
  if (value.is_number_integer()) return value;
  std::smatch m;
  std::string text = value.is_string() ? value.get<std::string>() : "";
  if (digits && std::regex_match(text, whole)) return std::stoll(text);
  if (!std::regex_match(text, m, form)) throw Error("expected ISO 8601 or whole ms since 1970; received " + value.dump());
  auto part = [&](int n) { return m[n].matched ? std::stoi(m[n]) : 0; };
  std::tm day{};
  day.tm_year = part(1) - 1900, day.tm_mon = part(2) - 1, day.tm_mday = part(3), day.tm_hour = part(4), day.tm_min = part(5);
  int zone = (part(8) * 60 + part(9)) * (m[7] == "-" ? -1 : 1);
  return int64_t(timegm(&day) - zone * 60) * 1000 + std::llround((m[6].matched ? std::stod(m[6]) : 0) * 1000);
}

inline Vector to_vector(const json& value, size_t dim, bool normalise) {
  if (value.is_null()) return {};
  if (!value.is_array() || value.size() != dim) throw Error("expected a list of " + std::to_string(dim) + " numbers; received " + value.dump());
  std::vector<double> held;
  double largest = 0, squares = 0;
  for (const json& x : value) held.push_back(float(to_number(x))), largest = std::max(largest, std::abs(held.back()));
  for (double x : held) if (!std::isfinite(x) || (!normalise && largest > 65504)) throw Error("a vector's numbers must be finite, in 16 bits");
  if (normalise && largest > 0) {
    for (double& x : held) x /= largest, squares += x * x;
    for (double& x : held) x /= std::sqrt(squares);
  }
  Vector found;
  for (double x : held) found.push_back(round_to_half(x));
  return std::any_of(found.begin(), found.end(), [](float x) { return x != 0; }) ? found : Vector();
}

struct Encoder {
  std::string form;  // vocabulary, hash, bucket, or a scale's
  Index index;
  uint64_t rows = 0;
  bool text = false;
  double mean = 0, std = 1;
  std::vector<double> edges, knots, shares, range;

  int code(const json& id) const {
    if (id.is_null()) return MISSING;
    if ((form == "hash" || index.count) && id.is_string() != text) throw Error("expected another type, as in training; received " + id.dump());
    if (form == "hash") return (text ? blake(id.get<std::string>()) : splitmix(uint64_t(id.get<int64_t>()))) % rows + FIRST;
    int at = index.find(id);
    return at < 0 ? UNKNOWN : at + FIRST;
  }
  int code_of_hash(uint64_t hash) const {
    if (!hash) return MISSING;
    if (form == "hash") return splitmix(hash) % rows + FIRST;
    int at = index.find(int64_t(hash));
    return at < 0 ? UNKNOWN : at + FIRST;
  }
  int bucket(double x) const { return std::isnan(x) ? 0 : std::upper_bound(edges.begin(), edges.end(), x) - edges.begin() + FIRST; }
  float scale(double x) const {
    if (std::isnan(x)) return 0;
    if (!range.empty()) x = std::min(std::max(x, range[0]), range[1]);
    if (form == "quantile") return (share(x) - 0.5) * std::sqrt(12);
    if (form == "log") x = (x > 0) - (x < 0) ? std::copysign(std::log1p(std::abs(x)), x) : 0;
    return (x - mean) / std;
  }
  double share(double x) const {
    size_t n = std::upper_bound(knots.begin(), knots.end(), x) - knots.begin();
    if (n == 0 || n == knots.size()) return shares[n ? n - 1 : 0];
    return shares[n - 1] + (shares[n] - shares[n - 1]) / (knots[n] - knots[n - 1]) * (x - knots[n - 1]);
  }
};

struct Encoders {
  json features, layout;
  std::map<std::string, Encoder> fitted;

  std::vector<int> codes(const std::string& name, const std::vector<json>& ids) const {
    const Encoder& encoder = fitted.at(layout["encoders"][name]);
    std::vector<int> found;
    for (const json& id : ids) found.push_back(encoder.code(id));
    return found;
  }
  // Encodes the features of a placement that are read from columns, value by value.
  Columns plain(const std::string& placement, const json& columns, Operands& operands) const {
    Columns encoded;
    const json& wanted = layout["operands"][placement];
    auto takes = [&](const char* part, const std::string& name) { const json& names = wanted[part]; return std::find(names.begin(), names.end(), name) != names.end(); };
    for (const std::string name : layout["plain"][placement]) {
      const json &feature = features[name], value = columns.value(layout["columns"][name].get<std::string>(), json());
      std::string kind = feature["kind"];
      Encoded& found = encoded[name];
      if (kind == "id" && fitted.count(name)) found.code = fitted.at(name).code(to_id(value));
      if (kind == "ids") {
        std::vector<json> held = to_list(value, feature["separator"]);
        held.resize(std::min<size_t>(held.size(), feature["last"]));
        found.list.values = codes(name, held);
        if (takes("lists", name)) for (const json& one : (operands.lists[name], held)) operands.lists[name].push_back(hash_value(one));
      }
      if (kind == "number") found.number = fitted.at(name).scale(to_number(value));
      if (kind == "bucket") found.code = fitted.at(name).bucket(to_number(value));
      if (kind == "vector") operands.vectors[name] = found.vector = to_vector(value, feature["dim"], feature["normalise"]);
      if (takes("keys", name)) operands.keys[name] = kind != "bucket" ? hash_value(to_id(value)) : found.code == MISSING ? 0 : splitmix(found.code);
      if (takes("numbers", name)) operands.numbers[name] = kind != "time" ? to_number(value) : value.is_null() ? NONE : to_time(value, true);
    }
    return encoded;
  }
  Row row(const std::string& placement, const Columns& encoded) const {
    const json& names = layout["rows"][placement];
    Row found;
    for (const std::string name : names["ids"]) found.ids.push_back(encoded.at(name).code);
    for (const std::string name : names["numbers"]) found.numbers.push_back(encoded.at(name).number);
    for (const std::string name : names["lists"]) found.lists.push_back(encoded.at(name).list);
    for (const std::string name : names["vectors"]) found.vectors.push_back(encoded.at(name).vector);
    return found;
  }
};
