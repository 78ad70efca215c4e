// The stages of a bundle: dense inputs, graphs and cuts.
#pragma once
#include <onnxruntime_cxx_api.h>

#include "formula.hpp"
#include "request.hpp"

using Floats = std::vector<float>;
using Tables = std::map<std::string, Array>;
struct Tensor { Floats data; std::vector<int64_t> shape; };
struct Scored { std::map<std::string, Floats> logits; std::vector<double> values; };

inline std::vector<std::string> names(const Ort::Session& graph, bool inputs) {
  Ort::AllocatorWithDefaultOptions memory;
  std::vector<std::string> found;
  for (size_t n = 0; n < (inputs ? graph.GetInputCount() : graph.GetOutputCount()); n++)
    found.push_back((inputs ? graph.GetInputNameAllocated(n, memory) : graph.GetOutputNameAllocated(n, memory)).get());
  return found;
}
inline int total(const json& parts) { int sum = 0; for (const json& part : parts) sum += part["width"].get<int>(); return sum; }

// The dense inputs of rows, one after another.
inline Tensor dense(const json& parts, const std::vector<Row>& rows, const Tables& tables) {
  Tensor out{Floats(rows.size() * total(parts)), {int64_t(rows.size()), total(parts)}};
  float* to = out.data.data();
  auto add = [](const Array& table, int64_t row, int width, float weight, float* to) {
    for (int i = 0; i < width; i++) to[i] += weight * table.as<float>()[row * width + i];
  };
  for (const Row& row : rows)
    for (const json& part : parts) {
      int at = part["at"], width = part["width"];
      std::string is = part["is"];
      if (is == "id") add(tables.at(std::to_string(width)), row.ids[at < 0 ? row.ids.size() + at : at] + part["offset"].get<int>(), width, 1, to);
      if (is == "number") *to = row.numbers[at];
      if (is == "list") {
        const List& list = row.lists[at];
        double whole = part["mean"] ? list.weighted ? 0 : list.values.size() : 1;
        if (part["mean"]) for (float weight : list.weights) whole += weight;
        for (size_t n = 0; n < list.values.size(); n++)
          add(tables.at(std::to_string(width)), list.values[n] + part["offset"].get<int>(), width, float((list.weighted ? list.weights[n] : 1) / whole), to);
      }
      if (is == "vector") {
        const Vector& vector = row.vectors[at];
        if (vector.empty()) to[width - 1] = 1;
        else if (part["projection"].is_null()) std::copy(vector.begin(), vector.end(), to);
        else for (size_t n = 0; n < vector.size(); n++) add(tables.at(part["projection"]), n, width - 1, vector[n], to);
      }
      to += width;
    }
  return out;
}

// High for the best logit, of mean 0 and variance 1, smooth between candidates that are .05 apart.
inline Floats soft_ranks(const Floats& logits) {
  Floats found;
  for (float z : logits) {
    double above = 0;
    for (float other : logits) above += std::min(std::max((double(other) - z) / 0.1 + 0.5, 0.), 1.);
    found.push_back(std::sqrt(12.) * (0.5 - above / logits.size()));
  }
  return found;
}

struct Ranker {
  const Bundle& bundle;
  RequestEncoder encoder{bundle};
  Ort::Env env;
  std::map<std::string, Ort::Session> graphs;
  std::map<std::string, std::unique_ptr<Formula>> formulas;

  explicit Ranker(const Bundle& from) : bundle(from) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    for (const json& stage : bundle.manifest["stages"]) {
      std::string name = stage["name"];
      std::vector<std::string> known = stage["labels"], files = {name + ".item", name + ".value"};
      for (const std::string column : bundle.manifest["data"]["columns"]) known.push_back(column);
      if (stage["scorer"] == "graph") files = {name}, formulas.emplace(name, std::make_unique<Formula>(stage["value"], known));
      else if (stage["scorer"] != "parts") throw Error("stage '" + name + "': this reader knows no scorer " + stage["scorer"].dump());
      for (const std::string& file : files) graphs.emplace(file, Ort::Session(env, (bundle.folder + file + ".onnx").c_str(), options));
    }
  }
  // The outputs of a graph by name, as doubles.
  std::map<std::string, std::vector<double>> run(const std::string& name, std::map<std::string, Tensor>& given) {
    Ort::Session& graph = graphs.at(name);
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<std::string> inputs = names(graph, true), outputs = names(graph, false);
    std::vector<const char*> in, out;
    std::vector<Ort::Value> values;
    for (const std::string& input : inputs) {
      Tensor& tensor = given.at(input);
      in.push_back(input.c_str()), values.push_back(Ort::Value::CreateTensor<float>(memory, tensor.data.data(), tensor.data.size(), tensor.shape.data(), tensor.shape.size()));
    }
    for (const std::string& output : outputs) out.push_back(output.c_str());
    std::vector<Ort::Value> results = graph.Run({}, in.data(), values.data(), in.size(), out.data(), out.size());
    std::map<std::string, std::vector<double>> found;
    for (size_t n = 0; n < results.size(); n++) {
      auto facts = results[n].GetTensorTypeAndShapeInfo();
      size_t count = facts.GetElementCount();
      if (facts.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE) found[outputs[n]].assign(results[n].GetTensorData<double>(), results[n].GetTensorData<double>() + count);
      else found[outputs[n]].assign(results[n].GetTensorData<float>(), results[n].GetTensorData<float>() + count);
    }
    return found;
  }
  // The answer to a request. With `all` also what each stage makes of all candidates.
  json rank(const json& request, EncodedRequest& encoded, std::map<std::string, Scored>* all = nullptr) {
    const json& manifest = bundle.manifest;
    std::map<std::string, std::map<const Candidate*, float>> seen;
    std::vector<Candidate*> everyone, alive;
    encoded = encoder.encode(request);
    for (Candidate& candidate : encoded.known) everyone.push_back(&candidate);
    alive = everyone;
    for (const json& stage : manifest["stages"]) {
      std::string name = stage["name"];
      const std::vector<Candidate*> scored = all ? everyone : alive;
      Scored found = score(stage, encoded, scored, seen);
      for (size_t n = 0; n < scored.size(); n++) {
        scored[n]->score = found.values[n];
        if (!std::isfinite(found.values[n])) throw Error("stage '" + name + "': a value is not finite; look for extreme numbers in the request");
      }
      if (all) (*all)[name] = found;
      std::stable_sort(alive.begin(), alive.end(), [](Candidate* a, Candidate* b) { return a->score > b->score; });
      size_t keep = request.contains("keep") ? request["keep"].value(name, stage["keep"].get<size_t>()) : stage["keep"].get<size_t>();
      if (alive.size() > keep) alive.resize(keep);
      if (!stage["min_score"].is_null()) alive.erase(std::remove_if(alive.begin(), alive.end(), [&](Candidate* one) { return one->score < stage["min_score"]; }), alive.end());
    }
    json items = json::array();
    for (Candidate* candidate : alive) items.push_back({{"id", candidate->id}, {"score", candidate->score}});
    std::string content = manifest["content"];
    return {{"model_version", manifest["model_version"]}, {"items_seq", manifest["items_seq"]}, {"items_id", content.substr(content.rfind('-') + 1)},
            {"stage", manifest["stages"].back()["name"]}, {"items", items}, {"unknown", encoded.unknown}, {"missing", encoded.missing}};
  }
  Scored score(const json& stage, const EncodedRequest& request, const std::vector<Candidate*>& candidates, std::map<std::string, std::map<const Candidate*, float>>& seen) {
    const json &layout = bundle.layout, &parts = layout["inputs"];
    const std::string name = stage["name"], graph = formulas.count(name) ? name : name + ".value";
    const Tables& tables = bundle.tables.at(stage["tables"]);
    const int64_t count = candidates.size(), labels = stage["labels"].size();
    Scored found;
    for (const std::string label : stage["labels"]) found.logits[label] = {};
    if (!count) return found;
    std::map<std::string, Tensor> inputs{{"query", dense(parts["query"], {request.query}, tables)}};
    if (total(parts["cross"])) {
      std::vector<Row> rows;
      for (Candidate* candidate : candidates) rows.push_back(encoder.cross_row(request, *candidate));
      Tensor& cross = inputs["cross"] = dense(parts["cross"], rows, tables);
      Tensor& matches = inputs["matches"] = {Floats(count), {count}};
      int column = 0, weight = 0;
      for (const json& part : parts["cross"]) {
        const json& feature = layout["rows"]["cross"][part["is"] == "id" ? "ids" : part["is"].get<std::string>() + "s"][part["at"].get<int>()];
        bool counts = std::find(stage["matches"].begin(), stage["matches"].end(), feature) != stage["matches"].end();
        for (int i = 0; i < part["width"]; i++, column++) {
          if (!counts) continue;
          float w = stage["constants"]["match_" + std::to_string(weight++)];
          for (int64_t n = 0; n < count; n++) matches.data[n] += w * cross.data[n * cross.shape[1] + column];
        }
      }
    }
    if (!stage["attended"].is_null()) {
      const Events& events = request.events.at(stage["attended"]["history"]);
      const int64_t length = std::max<size_t>(events.rows.size(), 1), width = total(layout["events"][name]);
      inputs["event"] = events.rows.empty() ? Tensor{Floats(width), {1, width}} : dense(layout["events"][name], events.rows, tables);
      inputs["mask"] = {Floats(length, !events.rows.empty()), {length}};
      inputs["ages"] = {events.rows.empty() ? Floats(1) : events.ages, {length}};
    }
    Tensor& earlier = inputs["earlier"] = {{}, {count, int64_t(stage["from_stages"].size())}};
    for (Candidate* candidate : candidates) for (const json& from : stage["from_stages"]) earlier.data.push_back(seen.at(from[0].get<std::string>() + "." + from[1].get<std::string>()).at(candidate));
    for (auto& [part, width] : stage["item_parts"].items()) {
      Tensor& tensor = inputs["part." + part] = {{}, {count, width}};
      for (Candidate* candidate : candidates) {
        Floats row = item_part(stage, part, width, *candidate, tables);
        tensor.data.insert(tensor.data.end(), row.begin(), row.end());
      }
    }
    std::vector<Row> records;
    for (Candidate* candidate : candidates) records.push_back(candidate->record);
    add_records(records, tables, inputs);
    for (const std::string& input : names(graphs.at(graph), true)) {
      if (input.rfind("column.", 0)) continue;
      Tensor& column = inputs[input] = {{}, {count}};
      for (Candidate* candidate : candidates) column.data.push_back(encoder.number(input.substr(7), *candidate));
    }
    auto outputs = run(graph, inputs);
    const auto& logits = outputs.count("logits") ? outputs["logits"] : outputs.begin()->second;
    for (int64_t k = 0; k < labels; k++) for (int64_t n = 0; n < count; n++) found.logits[stage["labels"][k]].push_back(logits[n * labels + k]);
    if (outputs.count("value")) found.values = outputs["value"];
    else for (int64_t n = 0; n < count; n++) found.values.push_back(value(stage, found, *candidates[n], n));
    const Floats &main = found.logits[stage["main"]], ranks = soft_ranks(main);
    for (int64_t n = 0; n < count; n++) seen[name + ".score"][candidates[n]] = main[n], seen[name + ".rank"][candidates[n]] = ranks[n];
    return found;
  }
  // What a stage keeps of an item: as stored, or computed of a described one.
  Floats item_part(const json& stage, const std::string& part, int64_t width, const Candidate& candidate, const Tables& tables) {
    const std::string name = stage["name"];
    Floats row;
    if (candidate.at >= 0) {
      const Array& held = bundle.items.parts.at(name + "." + part);
      auto scale = bundle.items.scales.find(name + "." + part);
      for (int64_t i = 0; i < width; i++) row.push_back(held.number(candidate.at * width + i) * (scale == bundle.items.scales.end() ? 1 : scale->second.as<float>()[candidate.at]));
      return row;
    }
    std::map<std::string, Tensor> given;
    add_records({candidate.record}, tables, given);
    float largest = 0;
    std::vector<double> computed = run(name + ".item", given).at("part." + part);
    for (double x : computed) row.push_back(x), largest = std::max(largest, std::abs(row.back()));
    const std::string precision = stage["precision"].value(part, "fp32");
    const float scale = largest > 0 ? largest / 127 : 1;
    for (float& x : row) x = precision == "fp16" ? round_to_half(x) : precision == "int8" ? std::nearbyint(x / scale) * scale : x;
    return row;
  }
  // The dense inputs of items' records.
  void add_records(std::vector<Row> records, const Tables& tables, std::map<std::string, Tensor>& inputs) const {
    const json &item = bundle.layout["rows"]["item"], &parts = bundle.layout["inputs"];
    inputs["item"] = dense(parts["item"], records, tables);
    for (Row& row : records) row.ids.erase(row.ids.begin(), row.ids.begin() + item["ids"].size()), row.numbers.erase(row.numbers.begin(), row.numbers.begin() + item["numbers"].size());
    inputs["snapshot"] = dense(parts["snapshot"], records, tables);
  }
  // The value of a candidate by which a stage orders whose graph gives logits alone.
  double value(const json& stage, const Scored& scored, const Candidate& candidate, size_t n) const {
    const Formula& formula = *formulas.at(stage["name"]);
    std::map<std::string, double> known;
    for (const std::string& name : formula.names) {
      if (!scored.logits.count(name)) { known[name] = encoder.number(name, candidate); continue; }
      const json& platt = stage["calibrators"][name];
      float x = scored.logits.at(name)[n] * platt["slope"].get<float>() + platt["intercept"].get<float>(), small = std::exp(-std::abs(x));
      known[name] = (x >= 0 ? 1 : small) / (1 + small);
    }
    return formula.evaluate(known);
  }
};
