// A bundle's folder, verified: manifest, layout, encoders, items, priors, tables; derived features.
#pragma once
#include "encoders.hpp"

const int FORMAT = 7;
const std::vector<std::string> KINDS = {"id", "ids", "number", "bucket", "vector", "time", "age", "candidates", "contains", "count", "cosine", "pair", "prior", "product", "ratio"};

struct Prior {
  Array keys, values;
  double other;
  double value(uint64_t key) const {
    const uint64_t *begin = keys.as<uint64_t>(), *end = begin + keys.count(), *at = std::lower_bound(begin, end, key);
    return !key ? NONE : at != end && *at == key ? values.as<double>()[at - begin] : other;
  }
};

inline double cosine(const Vector& a, const Vector& b) {
  double product = 0, one = 0, other = 0;
  for (size_t n = 0; n < a.size() && n < b.size(); n++) product += double(a[n]) * b[n], one += double(a[n]) * a[n], other += double(b[n]) * b[n];
  return one * other == 0 ? NONE : float(product / std::sqrt(one * other));
}

struct Lists { std::vector<int64_t> start; Array length, values; };
struct Items {
  Index index;
  Array ids, numbers;
  std::vector<Lists> lists;
  std::vector<std::pair<Array, Array>> vectors;
  std::map<std::string, Array> keys, operand_numbers, columns, parts, scales;
  std::map<std::string, Lists> key_lists;

  template <class T> static std::vector<T> list(const Lists& lists, int at) {
    const T* begin = lists.values.as<T>() + lists.start[at];
    return {begin, begin + lists.length.as<int32_t>()[at]};
  }
  Vector vector(size_t n, int at) const {
    Vector found;
    int64_t row = vectors[n].first.as<int32_t>()[at], width = vectors[n].second.shape[1];
    for (int64_t i = 0; row >= 0 && i < width; i++) found.push_back(vectors[n].second.number(row * width + i));
    return found;
  }
  Row record(int at) const {
    Row row;
    row.ids.assign(ids.as<int32_t>() + at * ids.shape[1], ids.as<int32_t>() + (at + 1) * ids.shape[1]);
    row.numbers.assign(numbers.as<float>() + at * numbers.shape[1], numbers.as<float>() + (at + 1) * numbers.shape[1]);
    for (const Lists& held : lists) row.lists.push_back({list<int>(held, at), {}, false});
    for (size_t n = 0; n < vectors.size(); n++) row.vectors.push_back(vector(n, at));
    return row;
  }
};

struct Bundle {
  std::string folder;
  json manifest, layout;
  Encoders encoders;
  Items items;
  std::map<std::string, Prior> priors;
  std::map<std::string, std::map<std::string, Array>> tables;

  explicit Bundle(const std::string& path) : manifest(json::parse(read_file(path + "/manifest.json"))) {
    if (manifest["format"] != FORMAT) throw Error(path + ": format " + manifest["format"].dump() + "; this reader reads format " + std::to_string(FORMAT));
    folder = path + "/" + manifest["content"].get<std::string>() + "/";
    for (auto& [name, part] : manifest["parts"].items()) {
      std::string raw = read_file(folder + name);
      if (part["bytes"] != raw.size() || part["sha256"] != sha256(raw)) throw Error(folder + name + ": damaged, or of another version");
    }
    for (auto& [name, feature] : manifest["features"].items())
      if (std::find(KINDS.begin(), KINDS.end(), feature["kind"]) == KINDS.end()) throw Error(path + ": feature '" + name + "' is of kind " + feature["kind"].dump() + ", which this reader does not know");
    layout = json::parse(read_file(folder + "layout.json"));
    encoders.features = manifest["features"], encoders.layout = layout;
    json fitted = json::parse(read_file(folder + "encoders/encoders.json"));
    for (auto& [name, fields] : fitted.items()) encoders.fitted[name] = encoder(fields);
    int number = 0;
    for (auto& [name, other] : layout["priors"].items()) {
      std::string at = "priors/" + std::to_string(number++) + "/";
      priors[name] = {read(at + "keys"), read(at + "values"), other.is_null() ? NONE : other.get<double>()};
    }
    for (auto& [name, part] : manifest["parts"].items()) {
      size_t slash = name.find('/', 7);
      if (name.rfind("tables/", 0) == 0) tables[name.substr(7, slash - 7)][name.substr(slash + 1, name.size() - slash - 5)] = read(name.substr(0, name.size() - 4));
    }
    read_items();
  }
  bool has(const std::string& name) const { return manifest["parts"].contains(name + ".npy"); }
  Array read(const std::string& name) const {
    if (!has(name)) throw Error(folder + name + ".npy: missing");
    return read_array(folder + name + ".npy");
  }
  Index read_ids(const std::string& name) const {
    Index index;
    if (has(name)) {
      for (int64_t id : read(name).whole()) index.numbers[id] = index.count++;
      return index;
    }
    index.text = true;
    std::vector<int64_t> ends = read(name + ".offsets").whole();
    Array text = read(name + ".text");
    for (size_t n = 0; n + 1 < ends.size(); n++) index.texts[{text.as<char>() + ends[n], text.as<char>() + ends[n + 1]}] = index.count++;
    return index;
  }
  Encoder encoder(const json& fields) const {
    Encoder found;
    auto numbers = [&](const char* key) { return fields.contains(key) && !fields[key].is_null() ? fields[key].get<std::vector<double>>() : std::vector<double>(); };
    found.form = fields["is"] == "scale" ? fields["form"] : fields["is"];
    if (found.form == "vocabulary") found.index = read_ids("encoders/" + fields["file"].get<std::string>()), found.text = found.index.text;
    if (found.form == "hash") found.rows = fields["rows"], found.text = fields["text"];
    found.edges = numbers("edges"), found.knots = numbers("knots"), found.shares = numbers("shares");
    if (fields["is"] == "scale") {
      if (found.form != "quantile") found.mean = fields["mean"], found.std = fields["std"];
      if (!fields["low"].is_null()) found.range = {fields["low"], fields["high"]};
    }
    return found;
  }
  Lists read_lists(const std::string& name) const { return {read(name + ".start").whole(), read(name + ".length"), read(name + ".values")}; }
  void read_items() {
    items.index = read_ids("items/keys"), items.ids = read("items/ids"), items.numbers = read("items/numbers");
    for (int n = 0; has("items/list" + std::to_string(n) + ".start"); n++) items.lists.push_back(read_lists("items/list" + std::to_string(n)));
    for (int n = 0; has("items/vector" + std::to_string(n) + ".row"); n++) items.vectors.push_back({read("items/vector" + std::to_string(n) + ".row"), read("items/vector" + std::to_string(n) + ".values")});
    auto each = [&](const char* part, auto open) { int n = 0; for (const std::string name : layout["operands"]["item"][part]) open(name, std::to_string(n++)); };
    each("keys", [&](auto& name, auto n) { items.keys[name] = read("items/operands/key" + n); });
    each("lists", [&](auto& name, auto n) { items.key_lists[name] = read_lists("items/operands/list" + n); });
    each("numbers", [&](auto& name, auto n) { items.operand_numbers[name] = read("items/operands/number" + n); });
    for (const json& stage : manifest["stages"])
      for (auto& [part, width] : stage["item_parts"].items()) {
        std::string name = stage["name"].get<std::string>() + "." + part;
        items.parts[name] = read("items/part." + name);
        if (has("items/part." + name + ".scale")) items.scales[name] = read("items/part." + name + ".scale");
      }
    for (const std::string name : manifest["item_columns"]) items.columns[name] = read("items/column." + name);
  }
  Operands record_operands(int at) const {
    Operands found;
    for (auto& [name, keys] : items.keys) found.keys[name] = keys.as<uint64_t>()[at];
    for (auto& [name, lists] : items.key_lists) found.lists[name] = Items::list<uint64_t>(lists, at);
    for (auto& [name, numbers] : items.operand_numbers) found.numbers[name] = numbers.as<double>()[at];
    for (size_t n = 0; n < items.vectors.size(); n++) found.vectors[layout["rows"]["item"]["vectors"][n]] = items.vector(n, at);
    return found;
  }
  // Encodes the derived features of a placement; `time` NONE for before all.
  void derive(const std::string& placement, const Operands& query, const Operands& item, double time, double size, Columns& encoded) const {
    for (auto& [name, operands] : layout["derived"][placement].items()) {
      const json& feature = manifest["features"][name];
      std::string kind = feature["kind"], a = operands.size() > 0 ? operands[0] : "", b = operands.size() > 1 ? operands[1] : "";
      auto side = [&](const std::string& operand) -> const Operands& { return layout["sides"][operand] == "item" ? item : query; };
      const Encoder& encoder = encoders.fitted.at(name);
      double value = NONE;
      uint64_t key = 0;
      if (kind == "pair" || kind == "prior") {
        Hashes keys;
        for (const std::string operand : operands) keys.push_back(side(operand).keys.at(operand));
        key = mix(keys), value = kind == "prior" ? priors.at(name).value(key) : NONE;
      } else if (kind == "candidates") value = size;
      else if (kind == "age") value = std::max(((feature["every"].is_null() ? time : manifest["priors"][name].get<double>()) - side(a).numbers.at(a)) / 864e5, 0.), value = std::isnan(side(a).numbers.at(a)) ? NONE : value;
      else if (kind == "cosine") value = cosine(side(a).vectors.at(a), side(b).vectors.at(b));
      else if (kind == "count" || kind == "contains") {
        const Hashes& held = side(a).lists.at(a);
        value = 0;
        for (uint64_t one : side(b).lists.count(b) ? side(b).lists.at(b) : Hashes{side(b).keys.at(b)}) value += one ? std::count(held.begin(), held.end(), one) : 0;
        if (kind == "contains") value = value > 0;
      } else {
        value = kind == "ratio" ? side(a).numbers.at(a) / side(b).numbers.at(b) : side(a).numbers.at(a) * side(b).numbers.at(b);
        if (!std::isfinite(value)) value = NONE;
      }
      Encoded& found = encoded[name];
      if (kind == "pair") found.code = encoder.code_of_hash(key);
      else if (encoder.form == "bucket") found.code = encoder.bucket(value);
      else found.number = encoder.scale(value);
    }
  }
};
