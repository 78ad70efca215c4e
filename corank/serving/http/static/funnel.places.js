// Places at two stages, one dot a candidate: on the diagonal the stages agree.

const MARGIN = { left: 58, right: 18, top: 14, bottom: 42 };
const NEAR = 24;

/** Draws the plot, and above it, of more than two stages, the choice of the two; returns how to redraw. */
function drawPlaces(shown, open) {
  const ran = shown.stages.filter((stage) => stage.ran);
  byId("axes").replaceChildren();
  if (ran.length < 2) {
    const words = `${ran[0].name} alone was through: nothing to compare.`;
    byId("places").replaceChildren(el("p", { class: "faint" }, words));
    return () => {};
  }
  const names = (of) => of.map(({ name }) => el("option", {}, name));
  const across = el("select", { id: "across" }, names(ran.slice(0, -1)));
  const up = el("select", { id: "up" }, names(ran.slice(1)));
  up.value = ran.at(-1).name;
  const draw = () => {
    const [one, other] = [across, up].map(({ value }) => ran.find(({ name }) => name === value));
    plotPlaces(shown, one, other, open);
  };
  if (ran.length > 2) {
    for (const select of [across, up]) select.addEventListener("change", draw);
    byId("axes").append(el("label", { for: "across" }, "Across"), across, el("label", { for: "up" }, "up"), up);
  }
  draw();
  return draw;
}

function plotPlaces(shown, across, up, open) {
  const placed = shown.candidates
    .filter(({ at }) => at.has(across.name) && at.has(up.name))
    .map((candidate) => ({ candidate, x: candidate.at.get(across.name).place, y: candidate.at.get(up.name).place }))
    .sort((one, other) => one.y - other.y);
  if (!placed.length) {
    byId("places").replaceChildren(el("p", { class: "faint" }, "No candidate reached both."));
    return;
  }
  const frame = framed(placed);
  const radius = placed.length > 1000 ? 2 : placed.length > 200 ? 3 : 4;
  const dots = placed.map((dot) => drawnDot(shown, dot, frame, up, radius));
  const label = `Places: ${across.name} across, ${up.name} up`;
  const plot = svg(
    "svg", { class: "plot", width: frame.width, height: frame.height, role: "group", "aria-label": label },
    axes(frame, across, up),
    svg("g", { class: hue(up) }, [...dots].reverse()), // the best lie on top
    limit(frame, up),
  );
  const tip = el("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  reachable(plot, dots, placed, frame, shown, tip, open);
  byId("places").replaceChildren(plot, tip, el("figcaption", {}, needed(placed, across, up)));
  mark();
}

/** The size of the plot, and where places lie in it. */
function framed(placed) {
  const width = Math.max(byId("places").clientWidth, 240);
  const height = Math.min(Math.max(0.75 * width, 240), 400);
  const most = { x: Math.max(...placed.map(({ x }) => x), 2), y: Math.max(...placed.map(({ y }) => y), 2) };
  const inner = { x: width - MARGIN.left - MARGIN.right, y: height - MARGIN.top - MARGIN.bottom };
  return {
    width, height, most,
    left: (place) => MARGIN.left + ((place - 0.5) / most.x) * inner.x,
    top: (place) => height - MARGIN.bottom - ((place - 0.5) / most.y) * inner.y,
  };
}

function axes({ width, height, most, left, top }, across, up) {
  const [bottom, right] = [height - MARGIN.bottom, width - MARGIN.right];
  const drawn = ticks(most.x).flatMap((place) => [
    svg("line", { class: "grid", x1: left(place), x2: left(place), y1: MARGIN.top, y2: bottom }),
    text(left(place), bottom + 16, "middle", count(place)),
  ]);
  drawn.push(...ticks(most.y).flatMap((place) => [
    svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: top(place), y2: top(place) }),
    text(MARGIN.left - 8, top(place) + 4, "end", count(place)),
  ]));
  const agreed = Math.min(most.x, most.y);
  drawn.push(
    svg("line", { class: "agreed", x1: left(1), y1: top(1), x2: left(agreed), y2: top(agreed) }),
    text((MARGIN.left + right) / 2, height - 6, "middle", `place at ${across.name}`, "axis"),
    svg("g", { transform: `translate(11 ${(MARGIN.top + bottom) / 2}) rotate(-90)` },
      text(0, 0, "middle", `place at ${up.name}`, "axis")),
  );
  return svg("g", { "aria-hidden": "true" }, drawn);
}

/** The line below which the stage up keeps, where it cuts. */
function limit({ width, most, top }, up) {
  if (!up.kept || up.kept >= most.y) return null;
  const [right, y] = [width - MARGIN.right, top(up.kept + 0.5)];
  return svg("g", { "aria-hidden": "true" },
    svg("line", { class: "limit", x1: MARGIN.left, x2: right, y1: y, y2: y }),
    text(right, y - 6, "end", `${up.name} keeps ${count(up.kept)}`, "limit"));
}

function text(x, y, anchor, words, kind = "faint") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, words);
}

/** The first place, and round ones after it: six or fewer. */
function ticks(most) {
  const rough = most / 5;
  const power = 10 ** Math.max(Math.floor(Math.log10(rough)), 0);
  const step = power * ([1, 2, 5, 10].find((n) => n * power >= rough) ?? 10);
  const round = Array.from({ length: Math.floor(most / step) }, (_, n) => (n + 1) * step);
  return [1, ...round.filter((place) => place > 1 + step / 2)];
}

function drawnDot(shown, { candidate, x, y }, frame, up, r) {
  return svg("circle", {
    class: candidate.cut === up.name ? "dot cut" : "dot",
    cx: frame.left(x), cy: frame.top(y), r, tabindex: -1, role: "button",
    "aria-label": lines(shown, candidate).join("; "),
    "data-n": candidate.n,
  });
}

/** What a dot tells: its id, then score and place by stage. */
function lines(shown, { id, at }) {
  const told = shown.stages.filter(({ name }) => at.has(name)).map(({ name }) => {
    const { score: value, place } = at.get(name);
    return `${name}: place ${count(place)}, score ${score(value)}`;
  });
  return [plain(id), ...told];
}

/** Pointer and keys: the nearest dot tells what it is, arrows go to the next by place, Enter or a click opens it. */
function reachable(plot, dots, placed, frame, shown, tip, open) {
  let held = 0;
  const tell = (n) => {
    const [first, ...rest] = lines(shown, placed[n].candidate);
    tip.replaceChildren(el("strong", {}, first), ...rest.map((line) => el("div", {}, line)));
    tip.hidden = false;
    const [x, y] = [frame.left(placed[n].x), frame.top(placed[n].y)];
    tip.style.left = `${Math.max(Math.min(x + 12, frame.width - tip.offsetWidth), 0)}px`;
    tip.style.top = y > tip.offsetHeight + 12 ? `${y - tip.offsetHeight - 10}px` : `${y + 14}px`;
    dots[held].setAttribute("tabindex", -1);
    held = n;
    dots[held].setAttribute("tabindex", 0);
  };
  const near = ({ clientX, clientY }) => {
    const corner = plot.getBoundingClientRect();
    const [left, top] = [clientX - corner.left, clientY - corner.top];
    const far = placed.map(({ x, y }) => Math.hypot(frame.left(x) - left, frame.top(y) - top));
    const least = Math.min(...far);
    return least <= NEAR ? far.indexOf(least) : null;
  };
  const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -dots.length, End: dots.length };
  dots[0].setAttribute("tabindex", 0);
  plot.addEventListener("pointermove", (event) => {
    const n = near(event);
    plot.classList.toggle("near", n !== null);
    if (n === null) tip.hidden = true;
    else tell(n);
  });
  plot.addEventListener("pointerleave", () => { tip.hidden = true; });
  plot.addEventListener("click", (event) => {
    const n = near(event);
    if (n !== null) open(placed[n].candidate);
  });
  plot.addEventListener("focusin", ({ target }) => tell(dots.indexOf(target)));
  plot.addEventListener("focusout", () => { tip.hidden = true; });
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hidden = true;
    if (event.key === "Enter" || event.key === " ") open(placed[held].candidate);
    else if (Object.hasOwn(moves, event.key)) {
      dots[Math.min(Math.max(held + moves[event.key], 0), dots.length - 1)].focus();
    } else return;
    event.preventDefault();
  });
}

/** The smallest quota of the stage across that would have let through all that the stage up keeps. */
function needed(placed, across, up) {
  const kept = placed.filter(({ candidate }) => candidate.cut !== up.name);
  const last = Math.max(...kept.map(({ x }) => x), 0);
  const told = [`Filled: kept by ${up.name}. On the diagonal the stages agree.`];
  const place = `place ${count(last)} of ${count(across.seen)}`;
  if (last) told.push(`Of what ${up.name} keeps, ${across.name} had the last at ${place}.`);
  return told.join(" ");
}
