// The page of a bundle: slots filled one after the other, by value and what is on the page already, under rules.
#pragma once
#include <limits>

#include "request.hpp"

using Places = std::vector<int>;
using Vectors = std::vector<std::vector<double>>;
using Cost = std::vector<int>;  // slots that break a rule, then those that break each rule: compared in this order

inline double dot(const std::vector<double>& a, const std::vector<double>& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.); }

// Vectors of length 1, or 0.
inline std::vector<double> unit(std::vector<double> vector) {
  const double squares = dot(vector, vector);
  for (double& x : vector) x = std::isfinite(squares) && squares > 0 ? x / std::sqrt(squares) : 0;
  return vector;
}

struct Rule {
  int at_most, at_least, slot, within;  // 0 for none
  bool never;
  std::string of;
  std::vector<std::set<uint64_t>> values;  // of each candidate
  bool has(int n) const { return !values[n].empty(); }
  bool fits(int n) const { return has(n) != never; }
  // How often a value stands in a window of places.
  int count(const Places& window, uint64_t value) const {
    return std::count_if(window.begin(), window.end(), [&](int n) { return values[n].count(value); });
  }
  // Whether a candidate breaks it in the slot after a page.
  bool breaks(const Places& page, int n, int slots) const {
    const int here = page.size(), width = within ? std::min(within, slots) : slots;
    if (slot) return slot - 1 == here && !fits(n);
    const Places window(page.begin() + std::max(here + 1 - width, 0), page.end());
    if (at_most) return std::any_of(values[n].begin(), values[n].end(), [&](uint64_t value) { return count(window, value) >= at_most; });
    const int have = std::count_if(window.begin(), window.end(), [&](int other) { return has(other); }) + has(n);
    return here + 1 >= width && have < std::min(at_least, width);
  }
};

class PageFiller {
  const json& page;
  const std::vector<double>& value;
  const Vectors& vectors;
  std::vector<Rule> rules;
  int slots, checks = 0;
  std::vector<int> type_of;  // candidates that are alike to rules are of one type
  std::vector<Rule> of_types;  // the rules, with what they see of each type
  std::map<std::pair<Places, Places>, Cost> exact, low;
  size_t tail = 0;

  // The scores of the candidates for the next slot, given a page.
  struct Scores {
    const PageFiller& of;
    std::vector<double> score, worth, near, quality;
    Vectors rows;
    explicit Scores(const PageFiller& filler) : of(filler), score(of.value), near(score.size(), -std::numeric_limits<double>::infinity()) {
      if (of.page["method"] == "mmr") {
        double greatest = 0;
        for (double v : of.value) greatest = std::max(greatest, std::abs(v));
        for (double& v : score) v = greatest > 0 ? v * (of.weight("lambda", 0.7) / greatest) : 0;
        worth = score;
      } else if (of.page["method"] == "dpp") {
        double greatest = 0;
        for (double v : of.value) greatest = std::max(greatest, v);
        const double least = 1e-6 * greatest;
        for (double& v : score) quality.push_back(least > 0 ? std::max(v, least) / greatest : 1), v = quality.back() * quality.back();
      }
    }
    void place(int at) {
      if (of.page["method"] == "value") return;
      std::vector<double> row;
      const double root = std::pow(score[at], -0.5), weight = of.page["method"] == "mmr" ? of.weight("lambda", 0.7) : of.weight("strength", 0.5);
      for (size_t n = 0; n < score.size(); n++) {
        const double alike = dot(of.vectors[n], of.vectors[at]);
        if (!worth.empty()) near[n] = std::max(near[n], alike), score[n] = worth[n] - (1 - weight) * near[n];
        if (worth.empty()) {  // a row of the Cholesky factor
          double left = quality[n] * quality[at] * weight * alike;
          for (auto& one : rows) left -= one[at] * one[n];
          row.push_back(left * root);
        }
      }
      if (worth.empty()) for (size_t n = 0; n < score.size(); n++) score[n] -= row[n] * row[n];
      if (worth.empty()) rows.push_back(row);
    }
  };
  double weight(const char* key, double otherwise) const { return page[key].is_null() ? otherwise : page[key].get<double>(); }

  // Fills slots by the least cost in each, then by score.
  template <class CostOf, class Place> Places fill(CostOf cost_of, Place place) const {
    Scores scores(*this);
    Places shown;
    while (int(shown.size()) < slots) {
      int best = -1;
      Cost least;
      for (int n = 0; n < int(value.size()); n++) {
        if (std::count(shown.begin(), shown.end(), n)) continue;
        const Cost cost = cost_of(shown, n);
        if (best < 0 || cost < least || (cost == least && scores.score[n] > scores.score[best])) best = n, least = cost;
      }
      place(best), shown.push_back(best), scores.place(best);
    }
    return shown;
  }
  // What a candidate breaks in the next slot, by rule, and then which it would have to be spared for: of a later slot.
  Cost greedy_cost(const Places& shown, int n) const {
    Cost now, later;
    const int slot = shown.size();
    for (const Rule& rule : rules) {
      now.push_back(rule.breaks(shown, n, slots));
      const int width = rule.within ? std::min(rule.within, slots) : slots, end = std::max(slot, width - 1);
      bool spared = false;
      if (rule.at_least && end > slot) {
        const Places before(shown.begin() + std::max(end - width + 1, 0), shown.end());
        const int have = std::count_if(before.begin(), before.end(), [&](int other) { return rule.has(other); });
        spared = std::min(rule.at_least, width) - have - (end - slot) > int(rule.has(n));
      }
      if (rule.slot && slot < rule.slot - 1 && rule.fits(n)) {
        std::set<int> alike;
        int free = 0;
        for (const Rule& other : rules) if (other.slot && other.slot <= slots && other.of == rule.of && other.never == rule.never) alike.insert(other.slot - 1);
        for (int other = 0; other < int(value.size()); other++) free += rule.fits(other) && !std::count(shown.begin(), shown.end(), other);
        spared = !alike.count(slot) && free <= std::distance(alike.upper_bound(slot), alike.end());
      }
      later.push_back(spared);
    }
    now.insert(now.end(), later.begin(), later.end());
    return now;
  }
  Cost cost(const Places& types, int type) const {
    Cost found{0};
    for (const Rule& rule : of_types) found.push_back(rule.breaks(types, type, slots));
    found[0] = std::accumulate(found.begin(), found.end(), 0) > 0;
    return found;
  }
  static Cost sum(Cost a, const Cost& b, int sign = 1) {
    for (size_t n = 0; n < a.size(); n++) a[n] += sign * b[n];
    return a;
  }
  static Places without(Places counts, int type) { return counts[type]--, counts; }
  // The least cost of the slots after a page if it is below a bound, else one that is not.
  Cost least(const Places& counts, const Places& types, const Cost& bound) {
    const Cost nothing(rules.size() + 1);
    if (int(types.size()) == slots || bound <= nothing) return nothing;
    const std::pair<Places, Places> key{counts, {types.end() - std::min(tail, types.size()), types.end()}};
    if (auto found = exact.find(key); found != exact.end()) return found->second;
    if (auto found = low.find(key); found != low.end() && found->second >= bound) return found->second;
    std::vector<std::pair<Cost, int>> costs;
    for (int type = 0; type < int(counts.size()); type++) if (counts[type]) costs.push_back({cost(types, type), type});
    if ((checks += costs.size()) > (value.size() > 8 ? 2500 : 20000)) throw Error("a page takes too long to search");
    std::sort(costs.begin(), costs.end());
    Cost best = bound;
    for (auto& [own, type] : costs) {
      if (own >= best || best == nothing) break;
      Places longer = types;
      longer.push_back(type);
      best = std::min(best, sum(own, least(without(counts, type), longer, sum(best, own, -1))));
    }
    return (best < bound ? exact : low)[key] = best;
  }
  void find_types() {
    std::map<std::vector<std::set<uint64_t>>, int> known;
    of_types = rules;
    for (Rule& rule : of_types) rule.never = false, rule.values.clear();
    for (int n = 0; n < int(value.size()); n++) {
      std::vector<std::set<uint64_t>> seen;
      for (const Rule& rule : rules) {
        std::set<uint64_t> own;
        Places all(value.size());
        std::iota(all.begin(), all.end(), 0);
        if (rule.at_most) for (uint64_t one : rule.values[n]) if (rule.count(all, one) > rule.at_most) own.insert(one);
        if (!rule.at_most && rule.fits(n)) own.insert(0);
        seen.push_back(own);
      }
      if (!known.count(seen)) {
        known.emplace(seen, known.size());
        for (size_t r = 0; r < rules.size(); r++) of_types[r].values.push_back(seen[r]);
      }
      type_of.push_back(known[seen]);
    }
    for (const Rule& rule : rules) if (!rule.slot && rule.within && rule.within < slots) tail = std::max<size_t>(tail, rule.within - 1);
  }

 public:
  PageFiller(const json& settings, const std::vector<double>& values, const Vectors& units, const std::vector<Rule>& given, size_t keep)
      : page(settings), value(values), vectors(units), rules(given), slots(std::min(keep, values.size())) {}
  // The positions of the candidates that are shown, slot by slot.
  Places fill() {
    const Places shown = fill([&](const Places& page, int n) { return greedy_cost(page, n); }, [](int) {});
    if (rules.empty() || !slots) return shown;
    find_types();
    Places types, counts(of_types[0].values.size());
    for (int type : type_of) counts[type]++;
    Cost known(rules.size() + 1);
    for (int n : shown) known = sum(known, cost(types, type_of[n])), types.push_back(type_of[n]);
    types.clear();
    try {  // for a page that breaks less
      Cost left = least(counts, {}, known);
      if (left >= known) return shown;
      auto completes = [&](int type, const Cost& own) {
        Places longer = types;
        longer.push_back(type);
        Cost bound = sum(left, own, -1);
        bound.back()++;
        return counts[type] && own <= left && least(without(counts, type), longer, bound) < bound;
      };
      return fill([&](const Places&, int n) {
        const Cost own = cost(types, type_of[n]);
        Cost last(rules.size() + 1, slots + 1);
        return completes(type_of[n], own) ? own : last;
      }, [&](int n) {
        left = sum(left, cost(types, type_of[n]), -1), counts[type_of[n]]--, types.push_back(type_of[n]);
      });
    } catch (const Error&) {
      return shown;
    }
  }
};
