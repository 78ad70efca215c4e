#!/usr/bin/env node
// node rank.mjs BUNDLE < REQUESTS: an answer a line. node rank.mjs BUNDLE --check CASES: the largest differences from a bundle's test cases.
import {createReadStream} from "node:fs";
import {createInterface} from "node:readline";
import {Bundle} from "./bundle.mjs";
import {Ranker} from "./ranker.mjs";

const TOLERANCE = 1e-5;

/** The largest difference of two JSON values; infinite if they are not of one form. Numbers beyond 1 count relative. */
function difference(found, wanted) {
  if (typeof wanted === "number" && typeof found === "number") return Math.abs(found - wanted) / Math.max(1, Math.abs(wanted));
  if (wanted === null || typeof wanted !== "object") return (found ?? null) === wanted ? 0 : Infinity;
  const keys = Object.keys(wanted);
  if (found === null || typeof found !== "object" || Object.keys(found).length !== keys.length) return Infinity;
  return keys.reduce((most, key) => Math.max(most, difference(found[key], wanted[key])), 0);
}

/** Rows as cases have them. */
const plain = (rows, lists, vectors) => ({
  ids: rows.map((row) => row.ids), numbers: rows.map((row) => row.numbers),
  lists: lists.map((_, n) => rows.map((row) => row.lists[n].values)),
  weights: lists.map((_, n) => rows.length && rows[0].lists[n].weights ? rows.map((row) => row.lists[n].weights) : null),
  vectors: vectors.map((_, n) => rows.map((row) => row.vectors[n] && [...row.vectors[n]])),
});

const sigmoids = (logits) => Object.fromEntries(Object.entries(logits).map(([label, values]) => [label, values.map((z) => 1 / (1 + Math.exp(-z)))]));

async function check(ranker, lines) {
  const most = {cases: 0, query: 0, described: 0, cross: 0, events: 0, probabilities: 0, values: 0, answers: 0}, {layout} = ranker;
  for await (const line of lines) {
    const wanted = JSON.parse(line), {answer, encoded, all} = await ranker.rank(wanted.request, true), {query, known, events} = encoded;
    const note = (what, found, expected) => { most[what] = Math.max(most[what], difference(found, expected)); };
    const compare = (what, rows, like, expected) => note(what, plain(rows, expected.lists, expected.vectors), expected);
    compare("query", [query.row], "query", wanted.query);
    compare("described", known.filter(({at}) => at === undefined).map(({record}) => record), "item", wanted.described);
    compare("cross", known.map((candidate) => ranker.encoder.crossRow(encoded, candidate)), "cross", wanted.cross);
    for (const [name, {rows, ages}] of Object.entries(events)) {
      compare("events", rows, "item", wanted.events[name]);
      if (name in wanted.ages) note("events", ages, wanted.ages[name]);
    }
    for (const [name, stage] of Object.entries(wanted.stages)) {
      note("probabilities", sigmoids(all[name].logits), sigmoids(stage.logits)), note("values", all[name].values, stage.values);
    }
    const scores = ({items}) => items.map(({score}) => score), {items, ...rest} = answer, {items: expected, ...others} = wanted.answer;
    delete others.warnings;
    note("answers", [scores({items}), rest], [scores({items: expected}), others]), most.cases++;
  }
  console.log(JSON.stringify(most, (_, value) => value === Infinity ? "other" : value));
  return Object.entries(most).every(([key, value]) => key === "cases" ? value > 0 : value <= TOLERANCE);
}

const [folder, option, cases] = process.argv.slice(2);
if (!folder || (option && (option !== "--check" || !cases))) throw new Error("usage: rank.mjs BUNDLE [--check CASES]");
const ranker = await Ranker.open(new Bundle(folder)), lines = createInterface({input: cases ? createReadStream(cases) : process.stdin});
if (cases) process.exitCode = await check(ranker, lines) ? 0 : 1;
else for await (const line of lines) console.log(JSON.stringify(await ranker.rank(JSON.parse(line)).catch((error) => ({error: error.message}))));
