// A request → encoded rows: of its query, of the events that stages attend to, of its candidates.
#pragma once
#include <set>

#include "bundle.hpp"

struct History {
  std::vector<json> ids;
  std::vector<int64_t> ages;
  std::vector<int> codes, positions;
  std::vector<float> weights;
  std::map<std::string, std::vector<json>> beside;
};
struct Candidate {
  json id, columns;
  int at;
  Row record;
  Operands operands;
  double score = 0;
};
struct Events { std::vector<Row> rows; std::vector<float> ages; };
struct EncodedRequest {
  int64_t time;
  Row query;
  Operands operands;
  std::vector<Candidate> known;
  std::map<std::string, Events> events;
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
  if (value.is_null()) return {};
  std::vector<json> found;
  json held = value.is_string() && separator.is_string() ? strip(value).empty() ? json::array() : split(value, separator) : value;
  for (const json& one : held) found.push_back(!one.is_string() ? one : strip(one).empty() ? json() : json(strip(one)));
  return found;
}

struct RequestEncoder {
  const Bundle& bundle;
  const json &layout = bundle.layout, &manifest = bundle.manifest;
  const Encoders& encoders = bundle.encoders;
  const Items& items = bundle.items;

  EncodedRequest encode(const json& request) const {
    for (auto& [key, value] : request.items())
      if (!std::set<std::string>{"user", "context", "time", "candidates", "keep", "trace"}.count(key)) throw Error("this reader knows no '" + key + "'");
    json user = request.at("user"), context = request.value("context", json::object()), given = request.at("candidates");
    std::string key = manifest["data"]["user"];
    if (user.contains("id")) { json id = user["id"]; user.erase("id"), user[key] = id; }
    EncodedRequest found;
    found.time = request.contains("time") && !request["time"].is_null() ? to_time(request["time"]) : std::time(nullptr) * int64_t(1000);
    check("user", user, key, found.missing), check("context", context, key, found.missing);
    json columns = user;
    columns.update(context);
    std::map<std::string, History> histories;
    for (auto& [name, facts] : layout["histories"].items()) histories[name] = history(name, facts, columns, found.time);
    encode_query(columns, histories, given.size(), found);
    for (auto& [name, held] : histories) {
      if (!layout["histories"][name]["attended"]) continue;
      Events& events = found.events[name];
      for (size_t n = 0; n < held.ids.size(); n++) {
        events.rows.push_back(held.positions[n] < 0 ? unknown(layout["histories"][name]["item"], held.codes[n]) : items.record(held.positions[n]));
        for (const std::string feature : layout["histories"][name]["beside"]) events.rows[n].ids.push_back(encoders.codes(feature, held.beside.at(feature))[n]);
        events.ages.push_back(std::log2(1 + std::max<int64_t>(held.ages[n], 0) / 1000.));
      }
    }
    read_candidates(given, found);
    return found;
  }
  void check(const std::string& side, const json& given, const std::string& key, json& missing) const {
    std::set<std::string> wanted = layout["request"][side], absent;
    for (auto& [column, value] : given.items()) if (!wanted.count(column) && column != key) throw Error(side + ": the bundle knows no '" + column + "' here");
    for (const std::string& column : wanted) if (!given.contains(column)) absent.insert(side + "." + (column == key ? "id" : column));
    for (const std::string& name : absent) missing.push_back(name);
  }
  History history(const std::string& name, const json& facts, const json& columns, int64_t time) const {
    struct Event { json id; int64_t time; std::map<std::string, json> beside; };
    std::vector<Event> events;
    auto column_of = [&](const std::string& feature) { return layout["columns"][feature].get<std::string>(); };
    auto get = [](const json& held, const std::string& column) { return held.contains(column) ? held[column] : json(); };
    bool dated = !facts["times"].is_null() || facts["timed"];
    if (!facts["column"].is_null()) {
      auto list = [&](const std::string& column) { return to_events(get(columns, column), facts["separator"]); };
      std::vector<json> ids = list(facts["column"]), times = facts["times"].is_null() ? ids : list(facts["times"]);
      std::map<std::string, std::vector<json>> beside;
      for (const std::string feature : facts["beside"]) beside[feature] = list(column_of(feature));
      for (auto& [feature, held] : beside) if (held.size() != ids.size()) throw Error("user: the lists of '" + name + "' differ in length");
      if (times.size() != ids.size()) throw Error("user: the lists of '" + name + "' differ in length");
      for (size_t n = 0; n < ids.size(); n++) {
        if (ids[n].is_null()) continue;
        json id = ids[n].is_string() && !items.index.text && facts["separator"].is_string() ? json(std::stoll(ids[n].get<std::string>())) : to_id(ids[n]);
        Event event{id, dated ? to_time(times[n], true) : 0, {}};
        for (auto& [feature, held] : beside) event.beside[feature] = held[n];
        events.push_back(event);
      }
      if (dated) {
        int64_t cut = (facts["every"].is_null() ? time : floor_time(time, facts["every"], manifest["data"]["timezone"])) - facts["after"].get<int64_t>();
        std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) { return a.time < b.time; });
        while (!events.empty() && events.back().time >= cut) events.pop_back();
      }
    } else {
      for (const json& one : get(columns, name)) {
        json held = one.is_object() ? one : json{{"id", one}};
        if (dated && !held.contains("time")) throw Error("user." + name + ": the times of events are needed");
        Event event{to_id(get(held, "id")), dated ? to_time(held["time"]) : 0, {}};
        for (const std::string feature : facts["beside"]) event.beside[feature] = get(held, column_of(feature));
        events.push_back(event);
      }
    }
    if (events.size() > facts["last"]) events.erase(events.begin(), events.end() - facts["last"].get<int>());
    History found;
    for (const Event& event : events) {
      found.ids.push_back(event.id), found.positions.push_back(items.index.find(event.id)), found.ages.push_back(dated ? time - event.time : 0);
      for (auto& [feature, value] : event.beside) found.beside[feature].push_back(to_id(value));
      if (!facts["half_life"].is_null()) found.weights.push_back(std::exp2(-float(std::min(std::max<int64_t>(found.ages.back(), 0) / facts["half_life"].get<double>(), 60.))));
    }
    for (const std::string feature : facts["beside"]) found.beside[feature];
    found.codes = encoders.codes(name, found.ids);
    return found;
  }
  Row unknown(const std::string& id, int code) const {
    Row row{std::vector<int>(items.ids.shape[1]), std::vector<float>(items.numbers.shape[1]), std::vector<List>(items.lists.size()), std::vector<Vector>(items.vectors.size())};
    for (size_t n = 0; n < layout["rows"]["item"]["ids"].size(); n++) if (layout["rows"]["item"]["ids"][n] == id) row.ids[n] = code;
    return row;
  }
  void encode_query(const json& columns, const std::map<std::string, History>& histories, int size, EncodedRequest& found) const {
    Operands& operands = found.operands;
    Columns encoded = encoders.plain("query", columns, operands);
    auto hashes = [](const std::vector<json>& values) { Hashes all; for (const json& value : values) all.push_back(hash_value(value)); return all; };
    for (auto& [name, held] : histories) {
      bool weighted = !layout["histories"][name]["half_life"].is_null();
      encoded[name].list = {held.codes, held.weights, weighted}, operands.lists[name] = hashes(held.ids);
      for (auto& [feature, values] : held.beside) encoded[feature].list = {encoders.codes(feature, values), held.weights, weighted}, operands.lists[feature] = hashes(values);
    }
    auto position = [&](const char* part, const std::string& name) { const json& names = layout["rows"]["item"][part]; return std::find(names.begin(), names.end(), name) - names.begin(); };
    for (auto& [name, of] : layout["attributes"].items()) {
      const History& held = histories.at(of[0]);
      List& list = encoded[name].list;
      list.weighted = !held.weights.empty() || !layout["histories"][of[0].get<std::string>()]["half_life"].is_null();
      size_t id = position("ids", of[1]), ids = layout["rows"]["item"]["ids"].size();
      for (size_t n = 0; n < held.positions.size(); n++) {
        int at = held.positions[n];
        std::vector<int> codes = at < 0 ? std::vector<int>(id < ids) : id < ids ? std::vector<int>{items.ids.as<int32_t>()[at * items.ids.shape[1] + id]} : Items::list<int>(items.lists[position("lists", of[1])], at);
        list.values.insert(list.values.end(), codes.begin(), codes.end());
        if (list.weighted) list.weights.insert(list.weights.end(), codes.size(), held.weights[n]);
      }
    }
    for (auto& [operand, side] : layout["sides"].items()) {
      size_t dot = operand.find('.');
      if (dot == operand.npos) continue;
      const History& held = histories.at(operand.substr(0, dot));
      std::string feature = operand.substr(dot + 1);
      if (!items.keys.count(feature) && !items.key_lists.count(feature)) { operands.vectors[operand] = mean(held, position("vectors", feature)); continue; }
      Hashes& all = operands.lists[operand];
      for (int at : held.positions) {
        Hashes some = items.keys.count(feature) ? Hashes{at < 0 ? 0 : items.keys.at(feature).as<uint64_t>()[at]} : at < 0 ? Hashes() : Items::list<uint64_t>(items.key_lists.at(feature), at);
        all.insert(all.end(), some.begin(), some.end());
      }
    }
    bundle.derive("query", operands, {}, found.time, size, encoded);
    found.query = encoders.row("query", encoded);
  }
  Vector mean(const History& held, size_t feature) const {
    std::vector<double> sum;
    double total = 0;
    for (size_t n = 0; n < held.positions.size(); n++) {
      Vector vector = held.positions[n] < 0 ? Vector() : items.vector(feature, held.positions[n]);
      double weight = held.weights.empty() ? 1 : held.weights[n];
      sum.resize(std::max(sum.size(), vector.size())), total += vector.empty() ? 0 : weight;
      for (size_t i = 0; i < vector.size(); i++) sum[i] += vector[i] * weight;
    }
    Vector found;
    for (double x : sum) found.push_back(x / total);
    return found;
  }
  void read_candidates(const json& given, EncodedRequest& found) const {
    std::set<std::string> seen, item = layout["request"]["item"], cross = layout["request"]["cross"], values = layout["request"]["values"], absent;
    for (const json& one : given) {
      json columns = one.is_object() ? one : json{{"id", one}}, id = columns.at("id");
      columns.erase("id");
      if (!seen.insert(id.dump()).second) throw Error("candidates: " + id.dump() + " is there twice");
      if (id.is_string() != items.index.text) throw Error("candidates: ids are of another type than the bundle's: " + id.dump());
      bool described = false;
      for (auto& [column, value] : columns.items()) {
        if (!item.count(column) && !cross.count(column) && !values.count(column)) throw Error("candidates: the bundle knows no '" + column + "' here");
        described |= item.count(column) > 0;
      }
      int at = items.index.find(id);
      if (at < 0 && !described) { found.unknown.push_back(id); continue; }
      for (const std::string& column : cross) if (!columns.contains(column)) absent.insert("cross." + column);
      found.known.push_back({id, columns, at, {}, {}});
      Candidate& candidate = found.known.back();
      if (at >= 0) candidate.record = items.record(at), candidate.operands = bundle.record_operands(at);
      else describe(candidate);
    }
    for (const std::string& name : absent) found.missing.push_back(name);
  }
  void describe(Candidate& candidate) const {
    json columns = candidate.columns;
    columns[manifest["data"]["item"].get<std::string>()] = candidate.id;
    Columns encoded = encoders.plain("item", columns, candidate.operands);
    for (const char* placement : {"item", "snapshot"}) bundle.derive(placement, {}, candidate.operands, NONE, 0, encoded);
    candidate.record = encoders.row("item", encoded);
    Row snapshot = encoders.row("snapshot", encoded);
    candidate.record.ids.insert(candidate.record.ids.end(), snapshot.ids.begin(), snapshot.ids.end());
    candidate.record.numbers.insert(candidate.record.numbers.end(), snapshot.numbers.begin(), snapshot.numbers.end());
  }
  // The encoded row of a candidate's crosses.
  Row cross_row(const EncodedRequest& request, const Candidate& candidate) const {
    Operands logged;
    Columns encoded = encoders.plain("cross", candidate.columns, logged);
    bundle.derive("cross", request.operands, candidate.operands, request.time, 0, encoded);
    return encoders.row("cross", encoded);
  }
  // One of the data's columns of a candidate.
  float number(const std::string& name, const Candidate& candidate) const {
    double value = candidate.at >= 0 && items.columns.count(name) ? items.columns.at(name).as<float>()[candidate.at] : to_number(candidate.columns.value(name, json()));
    if (!std::isfinite(value)) throw Error("candidates: no number '" + name + "', by which candidates are ordered");
    return value;
  }
};
