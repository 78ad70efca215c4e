// A request → encoded rows: of its query, of the events that stages attend to, of its candidates.
#pragma once
#include "bundle.hpp"

struct Event { json id; int64_t time; std::map<std::string, json> beside; };
struct History { std::vector<Row> records, rows; Floats ages; std::optional<Floats> weights; Ages old; };
struct Candidate { json id, columns; int at; Row row, cross; double score; };
struct EncodedRequest {
  Row query;
  std::vector<Candidate> known;
  std::map<std::string, History> histories;
  json unknown = json::array(), missing = json::array();
};

// The begin of the step of a grid that a time lies in; steps begin at midnight in a time zone.
inline int64_t floor_time(int64_t time, int64_t every, const std::string& zone) {
  setenv("TZ", (":" + zone).c_str(), 1), tzset();
  auto floor_div = [](int64_t a, int64_t b) { return a / b - (a % b < 0); };
  auto day = [&](int64_t ms) {
    time_t seconds = floor_div(ms, 1000);
    std::tm local{};
    localtime_r(&seconds, &local);
    local.tm_hour = local.tm_min = local.tm_sec = 0;
    return int64_t(timegm(&local)) / 86400;
  };
  const int64_t length = 86400000, days = std::max<int64_t>(every / length, 1), wanted = floor_div(day(time), days) * days;
  int64_t low = (wanted - 2) * length, high = (wanted + 2) * length;
  while (low < high) {  // the first moment of that day
    int64_t middle = floor_div(low + high, 2);
    if (day(middle) < wanted) low = middle + 1; else high = middle;
  }
  return every >= length ? low : low + floor_div(time - low, every) * every;
}

// The values of a list of events, nulls kept.
inline std::vector<json> to_events(const json& value, const json& separator) {
  std::vector<json> found;
  for (const json& one : value.is_string() && strip(value).empty() ? json::array() : to_array(value, separator))
    found.push_back(!one.is_string() ? one : strip(one).empty() ? json() : json(strip(one)));
  return found;
}

inline bool has(const json& names, const std::string& name) { return std::find(names.begin(), names.end(), name) != names.end(); }

struct RequestEncoder {
  const Bundle& bundle;
  const json &layout = bundle.layout, &manifest = bundle.manifest;

  EncodedRequest encode(const json& request) const {
    for (auto& [key, value] : request.items())
      if (!has({"user", "context", "time", "candidates", "keep", "trace"}, key)) throw Error("this reader knows no '" + key + "'");
    json user = request.at("user"), context = request.value("context", json::object());
    const std::string key = manifest["data"]["user"];
    if (user.contains("id")) user[key] = user["id"], user.erase("id");
    const int64_t time = request.contains("time") && !request["time"].is_null() ? to_time(request["time"]) : std::time(nullptr) * 1000;
    EncodedRequest found;
    check("user", user, key, found.missing), check("context", context, key, found.missing);
    json columns = user;
    columns.update(context);
    bundle.add_plain("query", columns, found.query);
    for (auto& [name, facts] : layout["histories"].items()) found.histories[name] = read_history(name, facts, columns, time, found.query);
    for (auto& facts : layout["gathered"]) found.query[facts["name"]] = gather(facts["is"], facts["feature"], found.histories[facts["history"]]);
    bundle.add_derived("query", found.query, found.query, {}, time, request.at("candidates").size());
    read_candidates(request["candidates"], time, found);
    return found;
  }
  void check(const std::string& side, const json& given, const std::string& key, json& missing) const {
    const json& wanted = layout["request"][side];
    for (auto& [column, value] : given.items()) if (!has(wanted, column) && column != key) throw Error(side + ": the bundle knows no '" + column + "' here");
    std::set<std::string> absent;
    for (const std::string column : wanted) if (!given.contains(column)) absent.insert(side + "." + (column == key ? "id" : column));
    for (const std::string& name : absent) missing.push_back(name);
  }
  // The last events of a history, oldest first.
  std::vector<Event> read_events(const std::string& name, const json& facts, const json& columns, int64_t time) const {
    const bool listed = facts["listed"], dated = !facts["times"].is_null();
    auto read = [&](const std::string& key) {
      if (listed) return to_events(columns.value(key, json()), facts["separator"]);
      std::vector<json> found;
      for (const json& one : columns.value(name, json::array())) found.push_back((one.is_object() ? one : json{{"id", one}}).value(key, json()));
      return found;
    };
    const std::vector<json> ids = read(facts["column"]), times = dated ? read(facts["times"]) : ids;
    std::map<std::string, std::vector<json>> beside;
    for (auto& [feature, own] : facts["beside"].items()) beside[feature] = read(own["column"]);
    bool even = times.size() == ids.size();
    for (auto& [feature, held] : beside) even &= held.size() == ids.size();
    if (!even) throw Error("user: the lists of '" + name + "' differ in length");
    std::vector<Event> events;
    for (size_t n = 0; n < ids.size(); n++) {
      if (listed && ids[n].is_null()) continue;
      const bool digits = ids[n].is_string() && !bundle.items.text && facts["separator"].is_string();
      events.push_back({digits ? json(std::stoll(ids[n].get<std::string>())) : to_id(ids[n]), dated ? to_time(times[n], listed) : time, {}});
      for (auto& [feature, held] : beside) events.back().beside[feature] = held[n];
    }
    if (listed && dated) {
      const int64_t cut = (facts["every"].is_null() ? time : floor_time(time, facts["every"], manifest["data"]["timezone"])) - facts["after"].get<int64_t>();
      std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) { return a.time < b.time; });
      while (!events.empty() && events.back().time >= cut) events.pop_back();
    }
    events.erase(events.begin(), events.end() - std::min<size_t>(events.size(), facts["last"]));
    return events;
  }
  // Adds a history's values, its own and those beside it, to a query; returns the rows and ages of its events.
  History read_history(const std::string& name, const json& facts, const json& columns, int64_t time, Row& query) const {
    const std::vector<Event> events = read_events(name, facts, columns, time);
    History found;
    found.old = {{"time", {}}, {"events", {}}};
    if (!facts["half_life"].is_null()) found.weights.emplace();
    std::vector<json> ids;
    std::map<std::string, std::vector<json>> beside;
    for (const Event& event : events) {
      const double age = std::max<int64_t>(time - event.time, 0);
      found.ages.push_back(std::log2(1 + age / 1000));
      found.old["time"].push_back(age / 864e5), found.old["events"].push_back(events.size() - found.ages.size());
      if (found.weights) found.weights->push_back(std::exp2(-std::min(age / facts["half_life"].get<double>(), 60.)));
      ids.push_back(event.id), found.records.push_back(bundle.record(bundle.items.find(event.id)));
    }
    auto add = [&](const std::string& feature, const std::string& of_event, const json& encoder, const std::vector<json>& values) {
      query[feature] = bundle.encoder(encoder).list(values, found.weights);
      query[feature].ages = found.old;
      for (size_t n = 0; n < values.size(); n++) found.rows[n][of_event].encoded = double(std::get<List>(query[feature].encoded).codes[n]);
    };
    found.rows = found.records;
    add(name, facts["item"], facts["encoder"], ids);
    for (auto& [feature, own] : facts["beside"].items()) {
      std::vector<json> values;
      for (const Event& event : events) values.push_back(to_id(event.beside.at(feature)));
      add(feature, feature, own["encoder"], values);
    }
    return found;
  }
  // What is taken of the items of a history: hashes with the ages of their events, codes with the weights of their events, or the mean of vectors.
  static Value gather(const std::string& what, const std::string& feature, const History& history) {
    Value found{0., {}, NONE, {{"time", {}}, {"events", {}}}};
    List codes{{}, history.weights ? std::optional(Floats()) : std::nullopt};
    std::vector<double> sum;
    double total = 0;
    for (size_t n = 0; n < history.records.size(); n++) {
      const Value& value = history.records[n].at(feature);
      const double weight = history.weights ? (*history.weights)[n] : 1;
      if (what == "hashes") {
        found.hashes.insert(found.hashes.end(), value.hashes.begin(), value.hashes.end());
        for (auto& [measure, ages] : found.ages) ages.insert(ages.end(), value.hashes.size(), history.old.at(measure)[n]);
      } else if (const auto* vector = std::get_if<Floats>(&value.encoded)) {
        sum.resize(std::max(sum.size(), vector->size())), total += vector->empty() ? 0 : weight;
        for (size_t i = 0; i < vector->size(); i++) sum[i] += (*vector)[i] * weight;
      } else {
        const auto* list = std::get_if<List>(&value.encoded);
        for (int code : list ? list->codes : std::vector<int>{int(std::get<double>(value.encoded))}) {
          codes.codes.push_back(code);
          if (codes.weights) codes.weights->push_back(weight);
        }
      }
    }
    if (what == "codes") found.encoded = codes;
    if (what == "vector") for (double& x : sum) x /= total;
    if (what == "vector") found.encoded = Floats(sum.begin(), sum.end());
    return found;
  }
  void read_candidates(const json& given, int64_t time, EncodedRequest& found) const {
    const json &item = layout["request"]["item"], &cross = layout["request"]["cross"], &values = layout["request"]["values"];
    std::set<std::string> seen, absent;
    for (const json& one : given) {
      json columns = one.is_object() ? one : json{{"id", one}}, id = columns.at("id");
      columns.erase("id");
      if (!seen.insert(id.dump()).second) throw Error("candidates: " + id.dump() + " is there twice");
      if (id.is_string() != bundle.items.text) throw Error("candidates: ids are of another type than the bundle's: " + id.dump());
      bool described = false;
      for (auto& [column, value] : columns.items()) {
        if (!has(item, column) && !has(cross, column) && !has(values, column)) throw Error("candidates: the bundle knows no '" + column + "' here");
        described |= has(item, column);
      }
      const int at = bundle.items.find(id);
      if (at < 0 && !described) { found.unknown.push_back(id); continue; }
      for (const std::string column : cross) if (!columns.contains(column)) absent.insert("cross." + column);
      found.known.push_back({id, columns, at, at < 0 ? describe(id, columns) : bundle.record(at), {}, 0});
      Candidate& candidate = found.known.back();
      bundle.add_plain("cross", columns, candidate.cross);
    }
    for (Candidate& one : found.known) bundle.add_derived("cross", one.cross, found.query, one.row, time);
    for (auto& facts : layout["derived"]["cross"]) {
      if (!COMPARING_KINDS.count(facts["kind"])) continue;
      std::vector<double> numbers;
      for (const Candidate& one : found.known) numbers.push_back(bundle.compared(facts, found.query, one.row, one.cross, time));
      const Encoder& encoder = bundle.encoders.at(facts["feature"]);
      for (size_t n = 0; n < numbers.size(); n++) found.known[n].cross[facts["feature"]].encoded = encoder.encode(compare(facts, numbers[n], numbers));
    }
    for (const std::string& name : absent) found.missing.push_back(name);
  }
  Row describe(const json& id, json columns) const {
    Row row;
    columns[manifest["data"]["item"].get<std::string>()] = id;
    bundle.add_plain("item", columns, row);
    for (const char* placement : {"item", "snapshot"}) bundle.add_derived(placement, row, {}, row, NONE);
    return row;
  }
  // One of the data's columns of a candidate.
  float number(const std::string& name, const Candidate& candidate) const {
    auto held = bundle.columns.find(name);
    const double value = candidate.at >= 0 && held != bundle.columns.end() ? held->second[candidate.at] : to_number(candidate.columns.value(name, json()));
    if (!std::isfinite(value)) throw Error("candidates: no number '" + name + "', by which candidates are ordered");
    return value;
  }
};
