// A bundle's folder, verified: manifest, layout, encoders, items, priors, tables; derived features.
#pragma once
#include <functional>
#include <numeric>
#include <set>

#include "encoders.hpp"

const int FORMAT = 9;
const std::set<std::string> DERIVED_KINDS = {"age", "candidates", "contains", "cosine", "count", "pair", "prior", "product", "ratio", "share", "since", "within"};
const std::set<std::string> COMPARING_KINDS = {"share", "within"};  // a number of a candidate with that of all

inline double cosine(const Floats& a, const Floats& b) {
  double product = 0, one = 0, other = 0;
  for (size_t n = 0; n < a.size() && n < b.size(); n++) product += double(a[n]) * b[n], one += double(a[n]) * a[n], other += double(b[n]) * b[n];
  return one * other == 0 ? NONE : float(product / std::sqrt(one * other));
}

// A number beside those of all candidates, its own among them.
inline double within(const std::string& measure, double number, std::vector<double> numbers) {
  numbers.erase(std::remove_if(numbers.begin(), numbers.end(), [](double one) { return std::isnan(one); }), numbers.end());
  std::sort(numbers.begin(), numbers.end());
  const size_t count = numbers.size();
  if (std::isnan(number)) return NONE;
  if (measure == "rank") {
    const auto [first, last] = std::equal_range(numbers.begin(), numbers.end(), number);
    return double((first - numbers.begin()) + (last - numbers.begin())) / (2 * count);
  }
  const double found = number / ((numbers[(count - 1) / 2] + numbers[count / 2]) / 2);
  return std::isfinite(found) ? found : NONE;
}

// A number's part of the sum of those of all candidates, its own among them; numbers below 0 are missing.
inline double share(double number, const std::vector<double>& numbers) {
  double sum = 0;
  for (double one : numbers) if (one > 0) sum += one;
  return number >= 0 && sum > 0 ? number / sum : NONE;
}
// What a feature of COMPARING_KINDS says of a number.
inline double compare(const json& facts, double number, const std::vector<double>& numbers) {
  return facts["kind"] == "share" ? share(number, numbers) : within(facts["measure"], number, numbers);
}

struct Prior { Matrix<uint64_t> keys; Matrix<double> values; };

struct Bundle {
  std::string folder;
  json manifest, layout;
  std::map<std::string, Encoder> encoders;
  Ids items;
  std::vector<std::function<void(Row&, int)>> fields;  // each adds to a row what an item has of a feature, −1 for an unknown item
  std::map<std::string, Floats> columns;
  std::map<std::string, Prior> priors;
  std::map<std::string, Matrix<float>> tables;  // by SET/TABLE

  explicit Bundle(const std::string& path) : manifest(json::parse(read_file(path + "/manifest.json"))) {
    if (manifest["kind"] != "bundle" || manifest["format"] != FORMAT)
      throw Error(path + ": " + manifest["kind"].dump() + " of format " + manifest["format"].dump() + "; this reader reads a bundle of format " + std::to_string(FORMAT));
    folder = path + "/" + manifest["content"].get<std::string>() + "/";
    for (auto& [name, file] : manifest["files"].items()) {
      const std::string raw = read_file(folder + name);
      if (file["bytes"] != raw.size() || file["sha256"] != sha256(raw)) throw Error(folder + name + ": damaged, or of another version");
      if (name.rfind("tables/", 0) == 0) tables[name.substr(7, name.size() - 11)] = read_array<float>(folder + name);
    }
    layout = json::parse(read_file(folder + "layout.json"));
    for (auto& placement : layout["plain"]) for (auto& facts : placement) check_kind(facts, column_kind(facts["kind"]));
    for (auto& placement : layout["derived"]) for (auto& facts : placement) {
      check_kind(facts, DERIVED_KINDS.count(facts["kind"]));
      if (facts["kind"] == "prior") priors[facts["feature"]] = {read<uint64_t>(facts["file"].get<std::string>() + "/keys"), read<double>(facts["file"].get<std::string>() + "/values")};
    }
    const json fitted = json::parse(read_file(folder + "encoders/encoders.json"));
    for (auto& [name, facts] : fitted.items()) {
      Encoder& encoder = encoders[name] = Encoder(facts);
      if (facts["is"] == "vocabulary") encoder.ids = read_ids("encoders/" + facts["file"].get<std::string>());
    }
    items = read_ids("items/keys");
    for (const std::string name : manifest["item_columns"]) columns[name] = read<float>("items/column." + name).data;
    add_fields();
  }
  void check_kind(const json& facts, bool known) const {
    if (!known) throw Error(folder + ": feature " + facts["feature"].dump() + " is of kind " + facts["kind"].dump() + ", which this reader does not know");
  }
  bool has(const std::string& name) const { return manifest["files"].contains(name + ".npy"); }
  template <class T> Matrix<T> read(const std::string& name) const {
    if (!has(name)) throw Error(folder + name + ".npy: missing");
    return read_array<T>(folder + name + ".npy");
  }
  Ids read_ids(const std::string& name) const {
    Ids ids{!has(name), {}};
    if (!ids.text) for (int64_t id : read<int64_t>(name).data) ids.add(id);
    if (!ids.text) return ids;
    const Matrix<int64_t> ends = read<int64_t>(name + ".offsets");
    const Matrix<char> text = read<char>(name + ".text");
    for (size_t n = 0; n + 1 < ends.data.size(); n++) ids.add(std::string(text.row(ends[n]), text.row(ends[n + 1])));
    return ids;
  }
  // How the lists of a file are read: by the position of an item, −1 for none.
  template <class T> std::function<std::vector<T>(int)> read_lists(const std::string& name) const {
    return [start = read<int64_t>(name + ".start"), length = read<int>(name + ".length"), values = read<T>(name + ".values")](int at) {
      return at < 0 ? std::vector<T>() : std::vector<T>(values.row(start[at]), values.row(start[at] + length[at]));
    };
  }
  void add_fields() {
    // `open` gives, for the n-th of some features, what reads the value of an item
    auto each = [&](const json& names, auto open) {
      for (size_t n = 0; n < names.size(); n++)
        fields.push_back([name = names[n].get<std::string>(), read = open(n)](Row& row, int at) { read(row[name], at); });
    };
    auto number = [](const char* n) { return [n](size_t at) { return "items/" + (n + std::to_string(at)); }; };
    const json &record = layout["record"], &operands = layout["operands"];
    for (const std::string part : {"ids", "numbers"})
      each(record[part], [&](size_t n) { return [n, held = read<float>("items/" + part)](Value& value, int at) { value.encoded = at < 0 ? 0. : held.row(at)[n]; }; });
    each(record["lists"], [&](size_t n) { return [list = read_lists<int>(number("list")(n))](Value& value, int at) { value.encoded = List{list(at), {}}; }; });
    each(record["vectors"], [&](size_t n) {
      return [rows = read<int>(number("vector")(n) + ".row"), held = read<float>(number("vector")(n) + ".values")](Value& value, int at) {
        const int row = at < 0 ? -1 : rows[at];
        value.encoded = row < 0 ? Floats() : Floats(held.row(row), held.row(row + 1));
      };
    });
    each(operands["keys"], [&](size_t n) { return [keys = read<uint64_t>(number("operands/key")(n))](Value& value, int at) { value.hashes = {at < 0 ? 0 : keys[at]}; }; });
    each(operands["lists"], [&](size_t n) { return [list = read_lists<uint64_t>(number("operands/list")(n))](Value& value, int at) { value.hashes = list(at); }; });
    each(operands["numbers"], [&](size_t n) { return [held = read<double>(number("operands/number")(n))](Value& value, int at) { value.number = at < 0 ? NONE : held[at]; }; });
  }
  // The encoded row of an item, −1 for an unknown one.
  Row record(int at) const {
    Row row;
    for (auto& add : fields) add(row, at);
    return row;
  }
  const Encoder& encoder(const std::string& name) const {
    static const Encoder none;  // of what no network reads
    auto found = encoders.find(name);
    return found == encoders.end() ? none : found->second;
  }
  // Adds the features of a placement that are read from columns to a row.
  void add_plain(const std::string& placement, const json& given, Row& row) const {
    for (auto& facts : layout["plain"][placement])
      row[facts["feature"]] = column_kind(facts["kind"])(facts, encoder(facts["encoder"]), given.value(facts["column"].get<std::string>(), json()));
  }
  // Adds the derived features of a placement to a row; `time` NONE for before all.
  void add_derived(const std::string& placement, Row& row, const Row& query, const Row& item, double time, double size = NONE) const {
    for (auto& facts : layout["derived"][placement]) {
      if (COMPARING_KINDS.count(facts["kind"])) continue;
      const std::vector<const Value*> of = operands(facts, query, item);
      const Encoder& encoder = encoders.at(facts["feature"]);
      row[facts["feature"]].encoded = facts["kind"] == "pair" ? encoder.code_of_hash(mix_of(of)) : encoder.encode(derive(facts, of, time, size));
    }
  }
  static std::vector<const Value*> operands(const json& facts, const Row& query, const Row& item) {
    std::vector<const Value*> of;
    for (auto& [side, operand] : facts["of"].get<std::vector<std::pair<std::string, std::string>>>()) of.push_back(&(side == "item" ? item : query).at(operand));
    return of;
  }
  // The number of a candidate that a feature compares: of a column, or derived.
  double compared(const json& facts, const Row& query, const Row& item, const Row& cross, double time) const {
    const std::string placement = facts["of"][0][0], operand = facts["of"][0][1];
    for (auto& made : layout["derived"][placement]) if (made["feature"] == operand) return derive(made, operands(made, query, item), time, NONE);
    return (placement == "cross" ? cross : item).at(operand).number;
  }
  static uint64_t mix_of(const std::vector<const Value*>& operands) {
    Hashes keys;
    for (const Value* one : operands) keys.push_back(one->hashes.at(0));
    return mix(keys);
  }
  // The number of a derived feature, NONE for none.
  double derive(const json& facts, const std::vector<const Value*>& of, double time, double size) const {
    const std::string kind = facts["kind"];
    if (kind == "candidates") return size;
    if (kind == "age") {
      const double days = ((facts["then"].is_null() ? time : facts["then"].get<double>()) - of[0]->number) / 864e5;
      return days < 0 ? 0 : days;
    }
    if (kind == "cosine") return cosine(std::get<Floats>(of[0]->encoded), std::get<Floats>(of[1]->encoded));
    if (kind == "count" || kind == "contains") {
      double count = 0;
      for (uint64_t one : of[1]->hashes) count += one ? std::count(of[0]->hashes.begin(), of[0]->hashes.end(), one) : 0;
      return kind == "count" ? count : count > 0;
    }
    if (kind == "since") {
      double least = NONE;
      const std::vector<double>& ages = of[0]->ages.at(facts["measure"]);
      for (size_t n = 0; n < ages.size(); n++) {
        const uint64_t held = of[0]->hashes[n];
        if (held && std::count(of[1]->hashes.begin(), of[1]->hashes.end(), held)) least = std::fmin(least, ages[n]);
      }
      return least;
    }
    if (kind == "prior") {
      const auto& [keys, values] = priors.at(facts["feature"]);
      const uint64_t key = mix_of(of);
      auto at = std::lower_bound(keys.data.begin(), keys.data.end(), key);
      if (key && at != keys.data.end() && *at == key) return values[at - keys.data.begin()];
      return !key || facts["other"].is_null() ? NONE : facts["other"].get<double>();
    }
    const double found = kind == "ratio" ? of[0]->number / of[1]->number : of[0]->number * of[1]->number;
    return std::isfinite(found) ? found : NONE;
  }
};
