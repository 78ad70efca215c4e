#!/usr/bin/env node
// node rank.mjs BUNDLE < REQUESTS: an answer a line. node rank.mjs BUNDLE --cases < CASES: what it makes of each test case, step by step.
import {createInterface} from "node:readline";
import {Bundle} from "./bundle.mjs";
import {Ranker} from "./ranker.mjs";

/** Values of features in JSON: as networks read them. */
function plain(_, held) {
  const value = held?.encoded === undefined ? held : held.encoded;
  return ArrayBuffer.isView(value) ? [...value] : typeof value === "bigint" ? undefined : value;
}

const [folder, option] = process.argv.slice(2);
if (!folder || (option && option !== "--cases")) throw new Error("usage: rank.mjs BUNDLE [--cases]");
const ranker = await Ranker.open(new Bundle(folder));
for await (const line of createInterface({input: process.stdin})) {
  const given = JSON.parse(line);
  if (option) {
    const {answer, encoded: {query, known, histories}, stages} = await ranker.rank(given.request, true);
    const described = known.filter(({at}) => at < 0).map(({row}) => row), cross = known.map((candidate) => candidate.cross);
    console.log(JSON.stringify({query, described, cross, events: histories, stages, answer}, plain));
  } else {
    const {answer} = await ranker.rank(given).catch((error) => ({answer: {error: error.message}}));
    console.log(JSON.stringify(answer));
  }
}
