// The stages of a bundle: dense inputs, graphs and cuts.
#pragma once
#include <onnxruntime_cxx_api.h>

#include "page.hpp"

struct Tensor { Floats data; std::vector<int64_t> shape, whole{}; };  // of whole numbers, or else of data
struct Scored { std::map<std::string, Floats> logits; std::vector<double> values; };
using Candidates = std::vector<Candidate*>;

inline int total(const json& parts) { int sum = 0; for (auto& part : parts) sum += part["width"].get<int>(); return sum; }

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

// A graph of ONNX Runtime, by the names of its inputs and outputs.
class Graph {
  Ort::Session session;
  Ort::AllocatorWithDefaultOptions memory;
 public:
  std::vector<std::string> inputs, outputs;
  Graph(const Ort::Env& env, const std::string& path, const Ort::SessionOptions& options) : session(env, path.c_str(), options) {
    for (size_t n = 0; n < session.GetInputCount(); n++) inputs.push_back(session.GetInputNameAllocated(n, memory).get());
    for (size_t n = 0; n < session.GetOutputCount(); n++) outputs.push_back(session.GetOutputNameAllocated(n, memory).get());
  }
  std::map<std::string, std::vector<double>> run(const std::function<Tensor(const std::string&)>& give) {
    std::vector<Tensor> tensors;
    std::vector<Ort::Value> given;
    std::vector<const char*> in, out;
    for (const std::string& name : inputs) tensors.push_back(give(name)), in.push_back(name.c_str());
    for (const std::string& name : outputs) out.push_back(name.c_str());
    for (auto& [data, shape, whole] : tensors) {
      auto add = [&](auto& from) { given.push_back(Ort::Value::CreateTensor(memory.GetInfo(), from.data(), from.size(), shape.data(), shape.size())); };
      if (whole.empty()) add(data);
      else add(whole);
    }
    std::vector<Ort::Value> results = session.Run({}, in.data(), given.data(), in.size(), out.data(), out.size());
    std::map<std::string, std::vector<double>> found;
    for (size_t n = 0; n < results.size(); n++) {
      auto facts = results[n].GetTensorTypeAndShapeInfo();
      auto read = [&](const auto* data) { found[outputs[n]].assign(data, data + facts.GetElementCount()); };
      if (facts.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE) read(results[n].GetTensorData<double>());
      else read(results[n].GetTensorData<float>());
    }
    return found;
  }
};

struct Ranker {
  const Bundle& bundle;
  RequestEncoder encoder{bundle};
  Ort::Env env;
  std::map<std::string, Graph> graphs;
  std::map<std::string, Matrix<float>> parts;  // by STAGE.PART, scaled

  explicit Ranker(const Bundle& from) : bundle(from) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    for (auto& stage : bundle.manifest["stages"]) {
      const std::string name = stage["name"];
      if (!bundle.manifest["files"].contains(name + ".value.onnx")) throw Error("stage '" + name + "': has no graph of its value, which this reader needs");
      for (const std::string& graph : {name + ".item", name + ".value"})
        if (bundle.manifest["files"].contains(graph + ".onnx")) graphs.try_emplace(graph, env, bundle.folder + graph + ".onnx", options);
      for (auto& [part, width] : stage["item_parts"].items()) {
        const std::string file = "items/part." + name + "." + part;
        Matrix<float>& held = parts[name + "." + part] = bundle.read<float>(file);
        if (!bundle.has(file + ".scale")) continue;
        const Matrix<float> scale = bundle.read<float>(file + ".scale");
        for (size_t n = 0; n < held.data.size(); n++) held.data[n] *= scale[n / held.width];
      }
    }
  }
  // The answer to a request. With `all` also what each stage makes of all candidates.
  json rank(const json& request, EncodedRequest& encoded, std::map<std::string, Scored>* all = nullptr) {
    const json& manifest = bundle.manifest;
    std::map<std::string, std::map<const Candidate*, float>> seen;
    Candidates everyone, alive;
    encoded = encoder.encode(request);
    for (Candidate& candidate : encoded.known) everyone.push_back(&candidate);
    alive = everyone;
    for (auto& stage : manifest["stages"]) {
      const std::string name = stage["name"];
      const Candidates scored = all ? everyone : alive;
      const Scored found = score(stage, encoded, scored, seen);
      for (size_t n = 0; n < scored.size(); n++) {
        scored[n]->score = found.values[n];
        if (!std::isfinite(found.values[n])) throw Error("stage '" + name + "': a value is not finite; look for extreme numbers in the request");
      }
      if (all) (*all)[name] = found;
      std::stable_sort(alive.begin(), alive.end(), [](Candidate* a, Candidate* b) { return a->score > b->score; });
      alive.resize(std::min(alive.size(), request.value("keep", json::object()).value(name, stage["keep"].get<size_t>())));
      if (!stage["min_score"].is_null()) alive.erase(std::remove_if(alive.begin(), alive.end(), [&](Candidate* one) { return one->score < stage["min_score"]; }), alive.end());
    }
    if (manifest.contains("page")) alive = fill_page(manifest["page"], alive, request.value("keep", json::object()));
    json items = json::array();
    for (Candidate* candidate : alive) items.push_back({{"id", candidate->id}, {"score", candidate->score}});
    const std::string content = manifest["content"];
    return {{"model_version", manifest["model_version"]}, {"items_seq", manifest["items_seq"]}, {"items_id", content.substr(content.rfind('-') + 1)},
            {"stage", manifest["stages"].back()["name"]}, {"items", items}, {"unknown", encoded.unknown}, {"missing", encoded.missing}};
  }
  // The values of a feature, that of a number is whether it is above 0; each of them, or whether there is one.
  std::set<uint64_t> values_of(const Row& row, const std::string& of, bool each) const {
    const Value& held = row.at(of);
    std::set<uint64_t> found, one{0};
    if (has(bundle.layout["operands"]["numbers"], of)) return held.number > 0 ? one : found;
    for (uint64_t hash : held.hashes) if (hash && (each || hash != hash_value(0))) found.insert(hash);
    return each || found.empty() ? found : one;
  }
  // What similarity of a page is of: unit vectors.
  Vectors page_vectors(const std::string& by, const Candidates& alive) {
    Vectors found;
    std::set<uint64_t> all;
    const size_t stop = by.find('.');
    for (const Candidate* one : alive) {
      std::vector<double> vector;
      if (stop != std::string::npos) {
        Floats part;
        if (one->at >= 0) part.assign(parts.at(by).row(one->at), parts.at(by).row(one->at + 1));
        else for (auto& stage : bundle.manifest["stages"]) if (stage["name"] == by.substr(0, stop)) part = compute(stage, "part." + by.substr(stop + 1), *one);
        vector.assign(part.begin(), part.end());
      } else if (const auto* own = std::get_if<Floats>(&one->row.at(by).encoded)) vector.assign(own->begin(), own->end());
      else for (uint64_t value : values_of(one->row, by, true)) all.insert(value);
      found.push_back(vector);
    }
    size_t width = 0;
    for (auto& vector : found) width = std::max(width, vector.size());
    for (size_t n = 0; n < alive.size(); n++) {
      if (width) found[n].resize(width);  // zeros where there is none
      else if (!all.empty()) for (uint64_t value : all) found[n].push_back(values_of(alive[n]->row, by, true).count(value));
      found[n] = unit(found[n]);
    }
    return found;
  }
  // The candidates on the page, slot by slot.
  Candidates fill_page(const json& page, const Candidates& alive, const json& keep) {
    std::vector<double> value;
    std::vector<Rule> rules;
    for (const Candidate* one : alive) value.push_back(one->score);
    for (auto& rule : page["rules"]) {
      auto number = [&](const char* key) { return rule[key].is_null() ? 0 : rule[key].get<int>(); };
      rules.push_back({number("at_most"), number("at_least"), number("slot"), number("within"), rule["never"], rule["of"], {}});
      for (const Candidate* one : alive) rules.back().values.push_back(values_of(one->row, rule["of"], rules.back().at_most));
    }
    const Vectors vectors = page["by"].is_null() ? Vectors() : page_vectors(page["by"], alive);
    Candidates shown;
    for (int n : PageFiller(page, value, vectors, rules, keep.value(page["name"].get<std::string>(), page["keep"].get<size_t>())).fill()) shown.push_back(alive[n]);
    return shown;
  }
  Scored score(const json& stage, const EncodedRequest& request, const Candidates& candidates, std::map<std::string, std::map<const Candidate*, float>>& seen) {
    const std::string name = stage["name"];
    const size_t count = candidates.size(), labels = stage["labels"].size();
    Scored found;
    for (const std::string label : stage["labels"]) found.logits[label] = {};
    if (!count) return found;
    auto outputs = graphs.at(name + ".value").run([&](const std::string& input) { return give(input, stage, request, candidates, seen); });
    found.values = outputs.at("value");
    for (size_t k = 0; k < labels; k++) for (size_t n = 0; n < count; n++) found.logits[stage["labels"][k]].push_back(outputs.at("logits")[n * labels + k]);
    const Floats &main = found.logits[stage["main"]], ranks = soft_ranks(main);
    for (size_t n = 0; n < count; n++) seen[name + ".score"][candidates[n]] = main[n], seen[name + ".rank"][candidates[n]] = ranks[n];
    return found;
  }
  // An input of a stage's graph `value`.
  Tensor give(const std::string& input, const json& stage, const EncodedRequest& request, const Candidates& candidates,
              const std::map<std::string, std::map<const Candidate*, float>>& seen) {
    const json& inputs = bundle.layout["inputs"];
    const std::string set = stage["tables"], name = stage["name"];
    const int64_t count = candidates.size();
    std::vector<const Row*> rows;
    Tensor found{{}, {count}};
    if (input == "query") return dense(inputs["query"], {&request.query}, set);
    if (input == "event" || input == "mask" || input == "ages") {
      const History& history = request.histories.at(stage["attended"]["history"]);
      const bool none = history.rows.empty();
      for (const Row& row : history.rows) rows.push_back(&row);
      const json& columns = bundle.layout["events"][name];
      const int64_t length = none ? 1 : rows.size(), width = total(columns);
      if (input == "event") return {none ? Floats(width) : dense(columns, rows, set).data, {1, length, width}};
      return {none ? Floats{0} : input == "ages" ? history.ages : Floats(rows.size(), 1), {1, length}};
    }
    if (input == "request_of") {  // of one request
      found.whole.resize(count);
      return found;
    }
    for (const Candidate* candidate : candidates) rows.push_back(input == "cross" || input == "matches" ? &candidate->cross : &candidate->row);
    if (inputs.contains(input)) return dense(inputs[input], rows, set);
    if (input == "matches") {
      const Floats cross = dense(inputs["cross"], rows, set).data, weights = bundle.layout["matches"][name];
      for (int64_t n = 0; n < count; n++) found.data.push_back(std::inner_product(weights.begin(), weights.end(), cross.begin() + n * weights.size(), 0.f));
    }
    if (input == "earlier") {
      found.shape.push_back(stage["from_stages"].size());
      for (const Candidate* candidate : candidates)
        for (auto& from : stage["from_stages"]) found.data.push_back(seen.at(from[0].get<std::string>() + "." + from[1].get<std::string>()).at(candidate));
    }
    if (input.rfind("column.", 0) == 0) for (const Candidate* candidate : candidates) found.data.push_back(encoder.number(input.substr(7), *candidate));
    if (input.rfind("part.", 0) == 0) {
      const Matrix<float>& held = parts.at(name + "." + input.substr(5));
      found.shape.push_back(held.width);
      for (const Candidate* candidate : candidates) {
        const Floats part = candidate->at < 0 ? compute(stage, input, *candidate) : Floats(held.row(candidate->at), held.row(candidate->at + 1));
        found.data.insert(found.data.end(), part.begin(), part.end());
      }
    }
    return found;
  }
  // What a stage would keep of a described item.
  Floats compute(const json& stage, const std::string& part, const Candidate& candidate) {
    auto give = [&](const std::string& input) { return dense(bundle.layout["inputs"][input], {&candidate.row}, stage["tables"]); };
    const std::vector<double> computed = graphs.at(stage["name"].get<std::string>() + ".item").run(give).at(part);
    const std::string precision = stage["precision"].value(part.substr(5), "fp32");
    Floats found;
    float largest = 0;
    for (double x : computed) largest = std::max(largest, float(std::abs(x)));
    const float scale = largest > 0 ? largest / 127 : 1;
    for (float x : computed) found.push_back(precision == "fp16" ? round_to_half(x) : precision == "int8" ? std::nearbyint(x / scale) * scale : x);
    return found;
  }
  // The dense input of rows.
  Tensor dense(const json& layout, const std::vector<const Row*>& rows, const std::string& set) const {
    Tensor out{Floats(rows.size() * total(layout)), {int64_t(rows.size()), total(layout)}};
    float* to = out.data.data();
    auto add = [&](const std::string& table, int64_t row, float weight) {
      const Matrix<float>& held = bundle.tables.at(set + "/" + table);
      for (size_t i = 0; i < held.width; i++) to[i] += double(weight) * held.row(row)[i];  // rounded once
    };
    for (const Row* row : rows)
      for (auto& part : layout) {
        const auto& encoded = row->at(part["feature"]).encoded;
        const int width = part["width"];
        if (part["is"] == "id") add(std::to_string(width), std::get<double>(encoded) + part["offset"].get<int>(), 1);
        if (part["is"] == "number") *to = std::get<double>(encoded);
        if (part["is"] == "list") {
          const auto& [codes, weights] = std::get<List>(encoded);
          double whole = 1;
          if (part["mean"]) whole = weights ? std::accumulate(weights->begin(), weights->end(), 0.) : codes.size();
          for (size_t n = 0; n < codes.size(); n++) add(std::to_string(width), codes[n] + part["offset"].get<int>(), (weights ? (*weights)[n] : 1) / whole);
        }
        if (part["is"] == "vector") {
          const Floats& vector = std::get<Floats>(encoded);
          if (vector.empty()) to[width - 1] = 1;
          else if (part["projection"].is_null()) std::copy(vector.begin(), vector.end(), to);
          else for (size_t n = 0; n < vector.size(); n++) add(part["projection"], n, vector[n]);
        }
        to += width;
      }
    return out;
  }
};
