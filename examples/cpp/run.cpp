// A model that `python -m seqlab.export` has written, at work without Python.
//
//     run model.ts < ids                   what a classifier says of each text: probabilities, or a number
//     run model.ts 20 END < ids            each text continued by a language model, greedily, by up to 20 tokens; END is
//                                          the number of the token that ends one ("end" in export.json)
//
// Of standard input each line is a text: the numbers of its tokens, as tokenizer.json gives them. An empty line is an
// empty text; without lines there is no answer. docs/deploy.md says how this is compiled.

#include <torch/script.h>

#include <charconv>
#include <cstdio>
#include <exception>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

using Texts = std::vector<std::vector<int64_t>>;

int64_t number(const std::string& word, const std::string& where) {
  int64_t value = 0;
  auto [end, problem] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (problem != std::errc() || end != word.data() + word.size()) {
    throw std::runtime_error(where + " must be a number, not " + word);
  }
  return value;
}

// tokens [T], text after text, and offsets [B + 1]: the ragged signature.
std::pair<torch::Tensor, torch::Tensor> ragged(const Texts& texts) {
  std::vector<int64_t> tokens, offsets = {0};
  for (const auto& text : texts) {
    tokens.insert(tokens.end(), text.begin(), text.end());
    offsets.push_back(static_cast<int64_t>(tokens.size()));
  }
  return {torch::tensor(tokens, torch::kInt64), torch::tensor(offsets, torch::kInt64)};
}

void classify(torch::jit::Module& model, const Texts& texts) {
  auto [tokens, offsets] = ragged(texts);
  auto answers = model.forward({tokens, offsets}).toTensor();
  answers = answers.reshape({static_cast<int64_t>(texts.size()), -1}).contiguous();
  for (int64_t i = 0; i < answers.size(0); i++) {
    for (int64_t c = 0; c < answers.size(1); c++) {
      std::printf("%s%.9g", c ? " " : "", answers[i][c].item<double>());
    }
    std::printf("\n");
  }
}

void generate(torch::jit::Module& model, const Texts& prompts, int64_t most, int64_t end) {
  Texts written(prompts.size()), next = prompts;  // what is read next; a text that has ended brings no token
  c10::List<torch::Tensor> state;                 // empty at the beginning
  for (int64_t i = 0; i < most; i++) {
    auto [tokens, offsets] = ragged(next);
    if (tokens.numel() == 0) break;
    auto result = model.forward({tokens, offsets, state}).toTuple();
    auto likeliest = result->elements()[0].toTensor().argmax(1);
    state = result->elements()[1].toTensorList();
    for (size_t b = 0; b < prompts.size(); b++) {
      auto token = likeliest[static_cast<int64_t>(b)].item<int64_t>();
      bool goes_on = !next[b].empty() && token != end;
      next[b].clear();
      if (goes_on) {
        written[b].push_back(token);
        next[b] = {token};
      }
    }
  }
  for (const auto& text : written) {
    for (size_t i = 0; i < text.size(); i++) std::printf("%s%lld", i ? " " : "", static_cast<long long>(text[i]));
    std::printf("\n");
  }
}

// What went wrong, in a line: the first, or the last of what the interpreter of TorchScript tells with its own stack.
std::string told(const std::string& message) {
  auto begins = message.rfind("Error: ");
  auto line = begins == std::string::npos ? message : message.substr(begins + 7);
  return line.substr(0, line.find('\n'));
}

int main(int argc, char** argv) {
  if (argc != 2 && argc != 4) {
    std::fprintf(stderr, "usage: run MODEL.ts [MOST END] < ids\n");
    return 2;
  }
  std::string doing = std::string("cannot load ") + argv[1] + ": ";
  try {
    auto model = torch::jit::load(argv[1]);
    doing.clear();
    Texts texts;
    for (std::string line; std::getline(std::cin, line);) {
      std::istringstream words(line);
      auto& text = texts.emplace_back();
      auto where = "line " + std::to_string(texts.size()) + ": a token";
      for (std::string word; words >> word;) text.push_back(number(word, where));
    }
    if (texts.empty()) return 0;
    if (argc == 2) {
      classify(model, texts);
    } else {
      generate(model, texts, number(argv[2], "MOST"), number(argv[3], "END"));
    }
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "error: %s%s\n", doing.c_str(), told(error.what_without_backtrace()).c_str());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s%s\n", doing.c_str(), told(error.what()).c_str());
    return 2;
  }
}
