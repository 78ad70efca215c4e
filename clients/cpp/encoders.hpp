// Raw values → what networks read of them, and what derived features take.
#pragma once
#include <algorithm>
#include <ctime>
#include <optional>
#include <unordered_map>
#include <variant>

#include "arrays.hpp"

enum { MISSING, UNKNOWN, FIRST };
struct List { std::vector<int> codes; std::optional<Floats> weights; };
using Ages = std::map<std::string, std::vector<double>>;
// A code, a number, a list or a vector (empty if there is none); for derived features hashes, a number, and for each hash
// how old its event is, by how that is measured.
struct Value { std::variant<double, List, Floats> encoded = 0.; Hashes hashes = {}; double number = NONE; Ages ages = {}; };
using Row = std::map<std::string, Value>;

// Values in JSON: as networks read them.
inline void to_json(json& found, const Value& value) {
  if (const auto* number = std::get_if<double>(&value.encoded)) found = *number;
  if (const auto* list = std::get_if<List>(&value.encoded)) found = {{"codes", list->codes}, {"weights", list->weights ? json(*list->weights) : json()}};
  if (const auto* vector = std::get_if<Floats>(&value.encoded)) found = vector->empty() ? json() : json(*vector);
}

// Ids, whole numbers or text, and where each is.
struct Ids {
  bool text = false;
  std::unordered_map<std::string, int> positions;  // by the id as JSON
  void add(const json& id) { positions.emplace(id.dump(), positions.size()); }
  int find(const json& id) const {
    auto found = positions.find(id.dump());
    return found == positions.end() ? -1 : found->second;
  }
};

// A value as an identifier: a whole number or text, null for null.
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
  const size_t from = text.find_first_not_of(" \t\r\n\v\f"), to = text.find_last_not_of(" \t\r\n\v\f");
  return from == text.npos ? "" : text.substr(from, to - from + 1);
}

// A list, or the parts of a text with a separator; null is empty.
inline json to_array(const json& value, const json& separator) {
  if (value.is_array()) return value;
  json parts = json::array();
  if (value.is_null()) return parts;
  if (!value.is_string() || !separator.is_string()) throw Error("expected lists; received " + value.dump());
  const std::string text = value, between = separator;
  for (size_t from = 0, to; from <= text.size(); from = to + between.size()) {
    to = std::min(text.find(between, from), text.size());
    parts.push_back(text.substr(from, to - from));
  }
  return parts;
}

// The single values of a list, or of a text with a separator, without nulls and blanks.
inline std::vector<json> to_list(const json& value, const json& separator) {
  std::vector<json> found;
  for (const json& one : to_array(value, separator)) {
    const json id = one.is_null() || separator.is_null() ? to_id(one) : json(strip(one.is_string() ? one.get<std::string>() : one.dump()));
    if (!id.is_null() && (separator.is_null() || id != "")) found.push_back(id);
  }
  return found;
}

// ISO 8601 (UTC without a zone), or ms since 1970; in a column also as text.
inline int64_t to_time(const json& value, bool column = false) {
  static const std::regex form(R"((\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d(?:\.\d{1,6})?))?(?:Z|([+-])(\d\d):(\d\d))?)?)"), whole(R"(-?\d+)");
  if (value.is_number_integer()) return value;
  std::smatch m;
  const std::string text = value.is_string() ? value.get<std::string>() : "";
  if (column && std::regex_match(text, whole)) return std::stoll(text);
  if (!std::regex_match(text, m, form)) throw Error("expected ISO 8601 or whole ms since 1970; received " + value.dump());
  auto part = [&](int n) { return m[n].matched ? std::stoi(m[n]) : 0; };
  std::tm day{};
  day.tm_year = part(1) - 1900, day.tm_mon = part(2) - 1, day.tm_mday = part(3), day.tm_hour = part(4), day.tm_min = part(5);
  const int zone = (part(8) * 60 + part(9)) * (m[7] == "-" ? -1 : 1);
  return int64_t(timegm(&day) - zone * 60) * 1000 + std::llround((m[6].matched ? std::stod(m[6]) : 0) * 1000);
}

inline Floats to_vector(const json& value, const json& facts) {
  if (value.is_null()) return {};
  if (!value.is_array() || value.size() != facts["dim"]) throw Error("expected a list of " + facts["dim"].dump() + " numbers; received " + value.dump());
  std::vector<double> held;
  double largest = 0, squares = 0;
  for (const json& x : value) held.push_back(float(to_number(x))), largest = std::max(largest, std::abs(held.back()));
  for (double x : held) if (!std::isfinite(x) || (!facts["normalise"] && largest > 65504)) throw Error("a vector's numbers must be finite, in 16 bits");
  if (facts["normalise"] && largest > 0) {
    for (double& x : held) x /= largest, squares += x * x;
    for (double& x : held) x /= std::sqrt(squares);
  }
  Floats found;
  for (double x : held) found.push_back(round_to_half(x));
  return std::any_of(found.begin(), found.end(), [](float x) { return x != 0; }) ? found : Floats();
}

struct Encoder {
  json fields;
  Ids ids;  // of a vocabulary
  std::vector<double> edges, knots, shares;

  explicit Encoder(const json& from = {{"is", "vocabulary"}}) : fields(from) {
    for (auto& [key, numbers] : {std::pair("edges", &edges), {"knots", &knots}, {"shares", &shares}})
      if (fields.contains(key) && !fields[key].is_null()) *numbers = fields[key].get<std::vector<double>>();
  }
  int code(const json& id) const {
    const bool hash = fields["is"] == "hash", text = hash ? fields["text"].get<bool>() : ids.text;
    if (id.is_null()) return MISSING;
    if ((hash || !ids.positions.empty()) && id.is_string() != text) throw Error("expected another type, as in training; received " + id.dump());
    return hash ? hash_id(id) % fields["rows"].get<uint64_t>() + FIRST : known(id);
  }
  int code_of_hash(uint64_t hash) const {
    if (!hash) return MISSING;
    return fields["is"] == "hash" ? splitmix(hash) % fields["rows"].get<uint64_t>() + FIRST : known(int64_t(hash));
  }
  int known(const json& id) const { return ids.find(id) < 0 ? UNKNOWN : ids.find(id) + FIRST; }
  // The code or the scaled value of a number.
  double encode(double x) const {
    if (std::isnan(x)) return 0;
    if (fields["is"] == "bucket") return std::upper_bound(edges.begin(), edges.end(), x) - edges.begin() + FIRST;
    if (!fields["low"].is_null()) x = std::min(std::max(x, fields["low"].get<double>()), fields["high"].get<double>());
    if (fields["form"] == "quantile") return float((share(x) - 0.5) * std::sqrt(12));
    if (fields["form"] == "log") x = std::copysign(std::log1p(std::abs(x)), x);
    return float((x - fields["mean"].get<double>()) / fields["std"].get<double>());
  }
  double share(double x) const {
    const size_t n = std::upper_bound(knots.begin(), knots.end(), x) - knots.begin();
    if (n == 0 || n == knots.size()) return shares[n ? n - 1 : 0];
    return shares[n - 1] + (shares[n] - shares[n - 1]) / (knots[n] - knots[n - 1]) * (x - knots[n - 1]);
  }
  Value list(const std::vector<json>& values, const std::optional<Floats>& weights = {}) const {
    List found{{}, weights};
    Hashes hashes;
    for (const json& id : values) found.codes.push_back(code(id)), hashes.push_back(hash_value(id));
    return {found, hashes};
  }
};

// What is made of a column's value; null for a kind of feature that is not known.
using ColumnKind = Value (*)(const json& facts, const Encoder& encoder, const json& value);
inline ColumnKind column_kind(const std::string& kind) {
  if (kind == "id") return [](auto&, auto& encoder, auto& value) -> Value { return {double(encoder.code(to_id(value))), {hash_value(to_id(value))}}; };
  if (kind == "ids") return [](auto& facts, auto& encoder, auto& value) -> Value {
    std::vector<json> ids = to_list(value, facts["separator"]);
    ids.resize(std::min<size_t>(ids.size(), facts["last"]));
    return encoder.list(ids);
  };
  if (kind == "number") return [](auto&, auto& encoder, auto& value) -> Value { return {encoder.encode(to_number(value)), {}, to_number(value)}; };
  if (kind == "bucket") return [](auto&, auto& encoder, auto& value) -> Value {
    const double code = encoder.encode(to_number(value));
    return {code, {code == MISSING ? 0 : splitmix(code)}, to_number(value)};
  };
  if (kind == "vector") return [](auto& facts, auto&, auto& value) -> Value { return {to_vector(value, facts)}; };
  if (kind == "time") return [](auto&, auto&, auto& value) -> Value { return {0., {}, value.is_null() ? NONE : to_time(value, true)}; };
  return nullptr;
}
