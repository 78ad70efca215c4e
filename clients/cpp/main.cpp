// corank-rank BUNDLE < REQUESTS: an answer a line. corank-rank BUNDLE --cases < CASES: what it makes of each test case, step by step.
#include <cstdlib>
#include <iostream>

#include "ranker.hpp"

json make_case(Ranker& ranker, const json& request) {
  EncodedRequest encoded;
  std::map<std::string, Scored> all;
  const json answer = ranker.rank(request, encoded, &all);
  json stages, events, described = json::array(), cross = json::array();
  for (auto& [name, scored] : all) stages[name] = {{"logits", scored.logits}, {"values", scored.values}};
  for (auto& [name, history] : encoded.histories) events[name] = {{"rows", history.rows}, {"ages", history.ages}};
  for (const Candidate& one : encoded.known) {
    cross.push_back(one.cross);
    if (one.at < 0) described.push_back(one.row);
  }
  return {{"query", encoded.query}, {"described", described}, {"cross", cross}, {"events", events}, {"stages", stages}, {"answer", answer}};
}

int main(int count, char** given) try {
  const bool cases = count == 3 && std::string(given[2]) == "--cases";
  if (count != 2 && !cases) throw Error("usage: corank-rank BUNDLE [--cases]");
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // read when the runtime's environment is made
  Bundle bundle(given[1]);
  Ranker ranker(bundle);
  for (std::string line; std::getline(std::cin, line);) {
    EncodedRequest encoded;
    json answer;
    try { answer = cases ? make_case(ranker, json::parse(line)["request"]) : ranker.rank(json::parse(line), encoded); }
    catch (const std::exception& error) { answer = {{"error", error.what()}}; }
    std::cout << answer.dump() << std::endl;
  }
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << std::endl;
  return 1;
}
