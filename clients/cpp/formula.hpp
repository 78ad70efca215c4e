// The value of a stage whose graph gives logits alone: a formula over calibrated probabilities and columns.
#pragma once
#include <functional>

#include "arrays.hpp"

using Value = std::function<double(const std::map<std::string, double>&)>;

struct Formula {
  std::string text;
  std::vector<std::string> known, names, tokens;
  size_t at = 0;
  Value evaluate;

  Formula(const std::string& written, const std::vector<std::string>& may) : text(written), known(may) {
    static const std::regex token(R"(\*\*|[-+*/()]|[0-9.][0-9a-zA-Z_.]*([eE][-+][0-9]+)?|[^-+*/()\s]+)");
    if (is_known(text)) tokens = {text};
    else for (std::sregex_iterator one(text.begin(), text.end(), token), end; one != end; ++one) tokens.push_back(one->str());
    evaluate = binary("+", "-", [this] { return binary("*", "/", [this] { return unary(); }); });
    if (at < tokens.size()) throw Error(text + ": no formula");
  }
  bool is_known(const std::string& name) const { return std::find(known.begin(), known.end(), name) != known.end(); }
  bool take(const char* token) { return at < tokens.size() && tokens[at] == token && ++at; }
  Value binary(const char* first, const char* second, const std::function<Value()>& part) {
    Value left = part();
    for (bool one; (one = take(first)) || take(second);) {
      Value a = left, b = part();
      bool sum = *first == '+';
      left = [a, b, sum, one](auto& x) { return sum ? one ? a(x) + b(x) : a(x) - b(x) : one ? a(x) * b(x) : a(x) / b(x); };
    }
    return left;
  }
  Value unary() {
    bool minus = take("-");
    if (!minus && !take("+")) return power();
    Value of = unary();
    return minus ? [of](auto& x) { return -of(x); } : of;
  }
  Value power() {
    Value base = atom();
    if (!take("**")) return base;
    Value by = unary();
    return [base, by](auto& x) { return std::pow(base(x), by(x)); };
  }
  Value atom() {
    if (take("(")) {
      Value inner = binary("+", "-", [this] { return binary("*", "/", [this] { return unary(); }); });
      if (!take(")")) throw Error(text + ": no formula");
      return inner;
    }
    if (at == tokens.size()) throw Error(text + ": no formula");
    std::string token = tokens[at++];
    if (is_known(token)) { names.push_back(token); return [token](auto& x) { return x.at(token); }; }
    size_t used = 0;
    double number = std::stod(token, &used);
    if (used < token.size()) throw Error(text + ": no formula");
    return [number](auto&) { return number; };
  }
};
