// corank-rank BUNDLE < REQUESTS: an answer a line. corank-rank BUNDLE --check CASES: the largest differences from a bundle's test cases.
#include <iostream>

#include "ranker.hpp"

const double TOLERANCE = 1e-5;

// The largest difference of two JSON values; infinite if they are not of one form. Numbers beyond 1 count relative.
double difference(const json& found, const json& wanted) {
  if (found.is_number() && wanted.is_number()) return std::abs(found.get<double>() - wanted.get<double>()) / std::max(1., std::abs(wanted.get<double>()));
  if (!wanted.is_structured()) return found == wanted ? 0 : INFINITY;
  if (found.type() != wanted.type() || found.size() != wanted.size()) return INFINITY;
  double most = 0;
  for (auto& [key, value] : wanted.items()) {
    if (wanted.is_object() && !found.contains(key)) return INFINITY;
    most = std::max(most, difference(wanted.is_object() ? found[key] : found[std::stoul(key)], value));
  }
  return most;
}

// Rows as cases have them.
json plain(const std::vector<Row>& rows, const json& like) {
  json found = {{"ids", json::array()}, {"numbers", json::array()}, {"lists", json::array()}, {"weights", json::array()}, {"vectors", json::array()}};
  for (const Row& row : rows) found["ids"].push_back(row.ids), found["numbers"].push_back(row.numbers);
  for (size_t n = 0; n < like["lists"].size(); n++) {
    json lists = json::array(), weights = json::array(), none;
    for (const Row& row : rows) lists.push_back(row.lists[n].values), weights.push_back(row.lists[n].weights);
    found["lists"].push_back(lists), found["weights"].push_back(!rows.empty() && rows[0].lists[n].weighted ? weights : none);
  }
  for (size_t n = 0; n < like["vectors"].size(); n++) {
    json vectors = json::array();
    for (const Row& row : rows) vectors.push_back(row.vectors[n].empty() ? json() : json(row.vectors[n]));
    found["vectors"].push_back(vectors);
  }
  return found;
}

int check(Ranker& ranker, std::istream& lines) {
  json most = {{"cases", 0}, {"query", 0.}, {"described", 0.}, {"cross", 0.}, {"events", 0.}, {"probabilities", 0.}, {"values", 0.}, {"answers", 0.}};
  auto note = [&](const char* what, const json& found, const json& wanted) { most[what] = std::max(most[what].get<double>(), difference(found, wanted)); };
  auto sigmoids = [](const json& logits) { json all = json::object(); for (auto& [label, values] : logits.items()) for (double z : values) all[label].push_back(1 / (1 + std::exp(-z))); return all; };
  for (std::string line; std::getline(lines, line);) {
    json wanted = json::parse(line), expected = wanted["answer"];
    EncodedRequest encoded;
    std::map<std::string, Scored> all;
    json answer = ranker.rank(wanted["request"], encoded, &all);
    std::vector<Row> described, cross;
    for (const Candidate& one : encoded.known) {
      cross.push_back(ranker.encoder.cross_row(encoded, one));
      if (one.at < 0) described.push_back(one.record);
    }
    note("query", plain({encoded.query}, wanted["query"]), wanted["query"]);
    note("described", plain(described, wanted["described"]), wanted["described"]), note("cross", plain(cross, wanted["cross"]), wanted["cross"]);
    for (auto& [name, events] : encoded.events) {
      note("events", plain(events.rows, wanted["events"][name]), wanted["events"][name]);
      if (wanted["ages"].contains(name)) note("events", events.ages, wanted["ages"][name]);
    }
    for (auto& [name, stage] : wanted["stages"].items()) note("probabilities", sigmoids(all[name].logits), sigmoids(stage["logits"])), note("values", all[name].values, stage["values"]);
    for (json* one : {&answer, &expected}) {
      json scores = json::array();
      for (const json& item : (*one)["items"]) scores.push_back(item["score"]);
      (*one)["items"] = scores, one->erase("warnings");
    }
    note("answers", answer, expected);
    most["cases"] = most["cases"].get<int>() + 1;
  }
  bool agree = most["cases"] > 0;
  for (auto& [key, value] : most.items()) agree &= key == "cases" || value <= TOLERANCE;
  std::cout << most.dump() << std::endl;
  return !agree;
}

int main(int count, char** given) try {
  if (count != 2 && !(count == 4 && std::string(given[2]) == "--check")) throw Error("usage: corank-rank BUNDLE [--check CASES]");
  Bundle bundle(given[1]);
  Ranker ranker(bundle);
  if (count == 4) { std::ifstream cases(given[3]); return check(ranker, cases); }
  for (std::string line; std::getline(std::cin, line);) {
    EncodedRequest encoded;
    try { std::cout << ranker.rank(json::parse(line), encoded).dump() << std::endl; }
    catch (const std::exception& error) { std::cout << json{{"error", error.what()}}.dump() << std::endl; }
  }
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << std::endl;
  return 1;
}
