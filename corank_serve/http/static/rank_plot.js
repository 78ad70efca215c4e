// The ranks at two stages, one dot per candidate: on the diagonal the stages agree.

const MARGIN = { left: 58, right: 18, top: 14, bottom: 42 };
const NEAR = 24;

/** Draws the plot, with a choice of two stages if there are more; returns a function that redraws it. */
function drawRankPlot(shown, open) {
  const ran = shown.stages.filter((stage) => stage.ran);
  byId("axes").replaceChildren();
  if (ran.length < 2) {
    const words = `${ran[0].name} was the only stage that ran: nothing to compare.`;
    byId("rank-plot").replaceChildren(el("p", { class: "faint" }, words));
    return () => {};
  }
  const names = (of) => of.map(({ name }) => el("option", {}, name));
  const across = el("select", { id: "across" }, names(ran.slice(0, -1)));
  const up = el("select", { id: "up" }, names(ran.slice(1)));
  up.value = ran.at(-1).name;
  const draw = () => {
    const [one, other] = [across, up].map(({ value }) => ran.find(({ name }) => name === value));
    plotRanks(shown, one, other, open);
  };
  if (ran.length > 2) {
    for (const select of [across, up]) select.addEventListener("change", draw);
    byId("axes").append(el("label", { for: "across" }, "x axis"), across, el("label", { for: "up" }, "y axis"), up);
  }
  draw();
  return draw;
}

function plotRanks(shown, across, up, open) {
  const ranked = shown.candidates
    .filter(({ at }) => at.has(across.name) && at.has(up.name))
    .map((candidate) => ({ candidate, x: candidate.at.get(across.name).rank, y: candidate.at.get(up.name).rank }))
    .sort((one, other) => one.y - other.y);
  if (!ranked.length) {
    byId("rank-plot").replaceChildren(el("p", { class: "faint" }, "No candidate reached both stages."));
    return;
  }
  const frame = makeFrame(ranked);
  const radius = ranked.length > 1000 ? 2 : ranked.length > 200 ? 3 : 4;
  const dots = ranked.map((dot) => makeDot(shown, dot, frame, up, radius));
  const label = `Ranks: ${across.name} on the x axis, ${up.name} on the y axis`;
  const plot = svg(
    "svg", { class: "plot", width: frame.width, height: frame.height, role: "group", "aria-label": label },
    axes(frame, across, up),
    svg("g", { class: hue(up) }, [...dots].reverse()), // so that the best are drawn on top
    quotaLine(frame, up),
  );
  const tip = el("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  listen(plot, dots, ranked, frame, shown, tip, open);
  byId("rank-plot").replaceChildren(plot, tip, el("figcaption", {}, describeQuota(ranked, across, up)));
  mark();
}

/** The size of the plot, and functions that map ranks to coordinates. */
function makeFrame(ranked) {
  const width = Math.max(byId("rank-plot").clientWidth, 240);
  const height = Math.min(Math.max(0.75 * width, 240), 400);
  const most = { x: Math.max(...ranked.map(({ x }) => x), 2), y: Math.max(...ranked.map(({ y }) => y), 2) };
  const inner = { x: width - MARGIN.left - MARGIN.right, y: height - MARGIN.top - MARGIN.bottom };
  return {
    width, height, most,
    left: (rank) => MARGIN.left + ((rank - 0.5) / most.x) * inner.x,
    top: (rank) => height - MARGIN.bottom - ((rank - 0.5) / most.y) * inner.y,
  };
}

function axes({ width, height, most, left, top }, across, up) {
  const [bottom, right] = [height - MARGIN.bottom, width - MARGIN.right];
  const drawn = ticks(most.x).flatMap((rank) => [
    svg("line", { class: "grid", x1: left(rank), x2: left(rank), y1: MARGIN.top, y2: bottom }),
    text(left(rank), bottom + 16, "middle", count(rank)),
  ]);
  drawn.push(...ticks(most.y).flatMap((rank) => [
    svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: top(rank), y2: top(rank) }),
    text(MARGIN.left - 8, top(rank) + 4, "end", count(rank)),
  ]));
  const agreed = Math.min(most.x, most.y);
  drawn.push(
    svg("line", { class: "agreed", x1: left(1), y1: top(1), x2: left(agreed), y2: top(agreed) }),
    text((MARGIN.left + right) / 2, height - 6, "middle", `rank at ${across.name}`, "axis"),
    svg("g", { transform: `translate(11 ${(MARGIN.top + bottom) / 2}) rotate(-90)` },
      text(0, 0, "middle", `rank at ${up.name}`, "axis")),
  );
  return svg("g", { "aria-hidden": "true" }, drawn);
}

/** The quota of the stage on the y axis, if it cut: what lies below the line is kept. */
function quotaLine({ width, most, top }, up) {
  if (!up.kept || up.kept >= most.y) return null;
  const [right, y] = [width - MARGIN.right, top(up.kept + 0.5)];
  return svg("g", { "aria-hidden": "true" },
    svg("line", { class: "limit", x1: MARGIN.left, x2: right, y1: y, y2: y }),
    text(right, y - 6, "end", `${up.name} keeps ${count(up.kept)}`, "limit"));
}

function text(x, y, anchor, words, kind = "faint") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, words);
}

/** Rank 1 and round ranks after it, six at most. */
function ticks(most) {
  const rough = most / 5;
  const power = 10 ** Math.max(Math.floor(Math.log10(rough)), 0);
  const step = power * ([1, 2, 5, 10].find((n) => n * power >= rough) ?? 10);
  const round = Array.from({ length: Math.floor(most / step) }, (_, n) => (n + 1) * step);
  return [1, ...round.filter((rank) => rank > 1 + step / 2)];
}

function makeDot(shown, { candidate, x, y }, frame, up, r) {
  return svg("circle", {
    class: candidate.cut === up.name ? "dot cut" : "dot",
    cx: frame.left(x), cy: frame.top(y), r, tabindex: -1, role: "button",
    "aria-label": dotText(shown, candidate).join("; "),
    "data-n": candidate.n,
  });
}

/** The text of a dot: its id, then rank and score by stage. */
function dotText(shown, { id, at }) {
  const stages = shown.stages.filter(({ name }) => at.has(name)).map(({ name }) => {
    const { score: value, rank } = at.get(name);
    return `${name}: rank ${count(rank)}, score ${score(value)}`;
  });
  return [plain(id), ...stages];
}

/** Pointer and keys: the nearest dot shows its text, arrows go to the next by rank, Enter or a click opens it. */
function listen(plot, dots, ranked, frame, shown, tip, open) {
  let current = 0;
  const show = (n) => {
    const [first, ...rest] = dotText(shown, ranked[n].candidate);
    tip.replaceChildren(el("strong", {}, first), ...rest.map((line) => el("div", {}, line)));
    tip.hidden = false;
    const [x, y] = [frame.left(ranked[n].x), frame.top(ranked[n].y)];
    tip.style.left = `${Math.max(Math.min(x + 12, frame.width - tip.offsetWidth), 0)}px`;
    tip.style.top = y > tip.offsetHeight + 12 ? `${y - tip.offsetHeight - 10}px` : `${y + 14}px`;
    dots[current].setAttribute("tabindex", -1);
    current = n;
    dots[current].setAttribute("tabindex", 0);
  };
  const nearest = ({ clientX, clientY }) => {
    const corner = plot.getBoundingClientRect();
    const [left, top] = [clientX - corner.left, clientY - corner.top];
    const far = ranked.map(({ x, y }) => Math.hypot(frame.left(x) - left, frame.top(y) - top));
    const least = Math.min(...far);
    return least <= NEAR ? far.indexOf(least) : null;
  };
  const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -dots.length, End: dots.length };
  dots[0].setAttribute("tabindex", 0);
  plot.addEventListener("pointermove", (event) => {
    const n = nearest(event);
    plot.classList.toggle("near", n !== null);
    if (n === null) tip.hidden = true;
    else show(n);
  });
  plot.addEventListener("pointerleave", () => { tip.hidden = true; });
  plot.addEventListener("click", (event) => {
    const n = nearest(event);
    if (n !== null) open(ranked[n].candidate);
  });
  plot.addEventListener("focusin", ({ target }) => show(dots.indexOf(target)));
  plot.addEventListener("focusout", () => { tip.hidden = true; });
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hidden = true;
    if (event.key === "Enter" || event.key === " ") open(ranked[current].candidate);
    else if (Object.hasOwn(moves, event.key)) {
      dots[Math.min(Math.max(current + moves[event.key], 0), dots.length - 1)].focus();
    } else return;
    event.preventDefault();
  });
}

/** The smallest quota on the x axis with which all that the stage on the y axis keeps would have passed. */
function describeQuota(ranked, across, up) {
  const kept = ranked.filter(({ candidate }) => candidate.cut !== up.name);
  const last = Math.max(...kept.map(({ x }) => x), 0);
  const sentences = [`Filled dots: kept by ${up.name}. On the diagonal the stages agree.`];
  const rank = `${count(last)} of ${count(across.seen)}`;
  if (last) sentences.push(`Of the candidates that ${up.name} keeps, ${across.name} ranked the last at ${rank}.`);
  return sentences.join(" ");
}
