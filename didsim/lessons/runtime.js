"use strict";

// What a page of the course runs: the mathematics of tabular policies, the charts, and the sliders.
// A policy is an array of K log-probabilities in nats; -Infinity marks a class of probability 0.
// The formulas, and the branches that keep them accurate, are those of the Python package: a test compares the numbers.

// --- the mathematics -----------------------------------------------------------------------------------------

const sum = (values) => values.reduce((total, value) => total + value, 0);
const probabilities = (logP) => logP.map(Math.exp);

function logSumExp(values) {
  const top = Math.max(...values);
  if (top === -Infinity) return -Infinity;
  return top + Math.log(sum(values.map((value) => Math.exp(value - top))));
}

// log π(i) = θ_i − log Σ_j exp θ_j
function logSoftmax(logits) {
  const top = Math.max(...logits);
  const shifted = logits.map((value) => value - top);
  const total = Math.log(sum(probabilities(shifted)));
  return shifted.map((value) => value - total);
}

// Σ p v, where a class of probability 0 contributes 0 whatever its value
const expectation = (logP, values) => sum(logP.map((lp, i) => (lp === -Infinity ? 0 : Math.exp(lp) * values[i])));

const entropy = (logP) => 0 - expectation(logP, logP);

// KL(p‖q) as a sum of terms p (e^r − 1 − r) ≥ 0, r = log q − log p: close distributions lose no digits
function kl(logP, logQ) {
  return sum(logP.map((lp, i) => {
    const lq = logQ[i], q = Math.exp(lq);
    if (lp === -Infinity) return q;
    const p = Math.exp(lp), r = lq - lp;
    if (r >= -1 && r <= 1) return p * (Math.expm1(r) - r);
    return r === -Infinity ? Infinity : q - p - p * r;
  }));
}

// log(e^a + e^b)
function logAddExp(a, b) {
  if (a === b) return a + Math.LN2;
  return Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));
}

function js(logP, logQ) {
  const middle = logP.map((lp, i) => logAddExp(lp, logQ[i]) - Math.LN2);
  return 0.5 * (kl(logP, middle) + kl(logQ, middle));
}

const tv = (logP, logQ) => 0.5 * sum(logP.map((lp, i) => Math.abs(Math.exp(lp) - Math.exp(logQ[i]))));

// log (p/q) with 0/0 = 0
const logRatio = (logP, logQ) => logP.map((lp, i) => (lp === -Infinity ? -Infinity : lp - logQ[i]));

// the policy ∝ base (above/below)^exponent
const tilt = (base, above, below, exponent) =>
  logSoftmax(logRatio(above, below).map((ratio, i) => base[i] + exponent * ratio));

// q(y) = (π(y)/π_ref(y)) / Z
const did = (logPi, logRef) => logSoftmax(logRatio(logPi, logRef));

// π_l ∝ π_ref (π_ref/π*)^β
const idealRejected = (logRef, logTarget, beta) => tilt(logRef, logRef, logTarget, beta);

const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));

// S(x) = −log σ(x)
const softplusNeg = (x) => Math.max(-x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

// p*(i ≻ j) = σ(log(w/l)_i − log(w/l)_j), of chosen w and rejected l
function preferences(logW, logL) {
  const scores = logRatio(logW, logL);
  return scores.map((a) => scores.map((b) => sigmoid(a - b)));
}

// Tables: a policy for each of X prompts, whose chances are given as logarithms.
const marginal = (table, logPrompts) =>
  logSoftmax(table[0].map((_, i) => logSumExp(table.map((row, x) => row[i] + logPrompts[x]))));

function mutualInformation(table, logPrompts) {
  const overall = marginal(table, logPrompts);
  return expectation(logPrompts, table.map((row) => kl(row, overall)));
}

// log π(y|x) − log π(y)
function pmi(table, logPrompts) {
  const overall = marginal(table, logPrompts);
  return table.map((row) => logRatio(row, overall));
}

// Losses of one pair of responses of length 1: the value, and its derivatives by log π_w and log π_l.
// a and b are log π of the chosen and the rejected response, g and h their log π_ref.
const ofMargin = (value, slope) => [value, slope, -slope];

// log(p/(1 − p)) at x = log p
const logOdds = (x) => x - Math.log(-Math.expm1(x));

const losses = {
  dpo(a, b, g, h, { beta }) {
    const margin = beta * (a - g) - beta * (b - h);
    return ofMargin(softplusNeg(margin), -beta * sigmoid(-margin));
  },
  log_pi(a, b, g, h, { beta }) {
    const margin = beta * a - beta * b;
    return ofMargin(softplusNeg(margin), -beta * sigmoid(-margin));
  },
  simpo(a, b, g, h, { beta, gamma }) {
    const margin = beta * a - beta * b - gamma;
    return ofMargin(softplusNeg(margin), -beta * sigmoid(-margin));
  },
  ipo(a, b, g, h, { tau }) {
    const excess = a - g - (b - h) - 0.5 / tau;
    return ofMargin(excess ** 2, 2 * excess);
  },
  hinge(a, b, g, h, { beta }) {
    const missing = 1 - (beta * (a - g) - beta * (b - h));
    return ofMargin(Math.max(missing, 0), missing > 0 ? -beta : 0);
  },
  slic(a, b, g, h, { delta, lam }) {
    const missing = delta - (a - b), pull = missing > 0 ? 1 : 0;
    return [Math.max(missing, 0) - lam * a, -pull - lam, pull];
  },
  cal_dpo(a, b, g, h, { beta, calibration_weight: weight }) {
    const up = a - g, down = b - h, margin = up - down, aim = 0.5 / beta;
    const value = softplusNeg(margin) + weight * (up - aim) ** 2 + weight * (down + aim) ** 2;
    const slope = -sigmoid(-margin);
    return [value, slope + 2 * weight * (up - aim), -slope + 2 * weight * (down + aim)];
  },
  orpo(a, b, g, h, { lam }) {
    const margin = logOdds(a) - logOdds(b), slope = -lam * sigmoid(-margin);
    return [-a + lam * softplusNeg(margin), -1 + slope / -Math.expm1(a), -slope / -Math.expm1(b)];
  },
};

// L = Σ_ij w(i) l(j) ℓ(i, j), and its gradient by the logits: G − π ΣG, with G the gradient by log π.
function population(name, hyperparameters, logits, { logRef, logW, logL }) {
  const logPi = logSoftmax(logits), w = probabilities(logW), l = probabilities(logL);
  const byLog = logPi.map(() => 0);
  let value = 0;
  for (let i = 0; i < w.length; i++) {
    for (let j = 0; j < l.length; j++) {
      const weight = w[i] * l[j];
      const [loss, up, down] = losses[name](logPi[i], logPi[j], logRef[i], logRef[j], hyperparameters);
      value += weight * loss;
      byLog[i] += weight * up;
      byLog[j] += weight * down;
    }
  }
  const total = sum(byLog);
  return { value, gradient: byLog.map((slope, i) => slope - Math.exp(logPi[i]) * total) };
}

// One step of gradient descent on the exact loss.
function gradientStep(name, hyperparameters, logits, problem, rate) {
  const { gradient } = population(name, hyperparameters, logits, problem);
  return logits.map((logit, i) => logit - rate * gradient[i]);
}

// --- words ---------------------------------------------------------------------------------------------------

// A number with so many decimals; very small and very large ones as 1.2 × 10⁻⁵.
function say(value, digits) {
  if (typeof value === "string") return value;
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size < 1e-12) return "0";
  if (size >= 0.5 * 10 ** -digits && size < 1e6) return value.toFixed(digits).replace("-", "−");
  const [mantissa, exponent] = value.toExponential(1).split("e");
  const raised = [...exponent.replace("+", "")].map((sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]).join("");
  return `${mantissa} × 10${raised}`.replace("-", "−");
}

// --- charts --------------------------------------------------------------------------------------------------

// The page comes with every chart drawn; axes stay, and only what depends on the slider is drawn again.
const fixed = (value) => value.toFixed(1);

// a function from values of an axis to places between two ends
function scale({ low, high, log }, from, to) {
  const along = log ? Math.log : (value) => value;
  return (value) => from + ((along(value) - along(low)) / (along(high) - along(low))) * (to - from);
}

const circle = (x, y, r) =>
  `M${fixed(x - r)} ${fixed(y)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`;

// the outline of a mark, as SVG has it; what is not finite is left out
const outlines = {
  bars({ xs, ys, box }) {
    const width = (0.8 * (box.right - box.left)) / xs.length;
    return xs.map((x, i) => (Number.isFinite(ys[i])
      ? `M${fixed(x - width / 2)} ${fixed(box.bottom)}V${fixed(ys[i])}H${fixed(x + width / 2)}V${fixed(box.bottom)}Z`
      : "")).join("");
  },
  line({ xs, ys }) {
    let pen = "M";
    return xs.map((x, i) => {
      const stroke = Number.isFinite(ys[i]) ? `${pen}${fixed(x)} ${fixed(ys[i])}` : "";
      pen = stroke ? "L" : "M";
      return stroke;
    }).join("");
  },
  dots: ({ xs, ys }) => xs.map((x, i) => (Number.isFinite(ys[i]) ? circle(x, ys[i], 2.5) : "")).join(""),
  point: ({ xs, ys }) => (Number.isFinite(xs[0]) && Number.isFinite(ys[0]) ? circle(xs[0], ys[0], 5) : ""),
  level: ({ ys, box }) => (Number.isFinite(ys[0]) ? `M${fixed(box.left)} ${fixed(ys[0])}H${fixed(box.right)}` : ""),
  rule: ({ xs, box }) => (Number.isFinite(xs[0]) ? `M${fixed(xs[0])} ${fixed(box.bottom)}V${fixed(box.top)}` : ""),
};

// the places of a mark's values, in the units of the drawing
function placesOf(mark, values, chart) {
  const box = chart.box;
  const x = scale(chart.x, box.left, box.right), y = scale(chart.y, box.bottom, box.top);
  if (mark.kind === "point") return { xs: [x(values[0])], ys: [y(values[1])], box };
  if (mark.kind === "level") return { xs: [box.right], ys: [y(values[0])], box };
  if (mark.kind === "rule") return { xs: [x(values[0])], ys: [box.top], box };
  return { xs: chart.at.map(x), ys: values.map((value) => y(value)), box };
}

// keep names that stand one below the other apart
function spread(places, box) {
  const column = places.filter((place) => Number.isFinite(place.y)).sort((a, b) => a.y - b.y);
  column.forEach((place) => { place.y = Math.min(Math.max(place.y, box.top + box.gap / 2), box.bottom); });
  for (let i = 1; i < column.length; i++) column[i].y = Math.max(column[i].y, column[i - 1].y + box.gap);
  column.reverse().forEach((place, steps) => { place.y = Math.min(place.y, box.bottom - steps * box.gap); });
}

// Everything of a chart that depends on the slider: for each mark an outline, and the place of its name.
function drawing(chart, series) {
  const drawn = chart.marks.map((mark) => {
    const places = placesOf(mark, series[mark.name], chart), { xs, ys } = places;
    return { outline: outlines[mark.kind](places), place: { x: xs.at(mark.label_at), y: ys.at(mark.label_at) } };
  });
  spread(drawn.filter((_, i) => chart.marks[i].at_end).map(({ place }) => place), chart.box);
  return drawn.map(({ outline, place: { x, y } }, i) => {
    const beside = chart.marks[i].at_end || chart.marks[i].side === "right";
    return { outline, x: fixed(beside ? x + 8 : x), y: fixed(beside ? y + 4 : y - 9) };
  });
}

// --- the page ------------------------------------------------------------------------------------------------

// The models of a lesson's steps, by name: from a value of the slider, and constants, to what is shown.
const models = {};

const viewOf = (step, index) =>
  step.frames ? step.frames[index] : models[step.name](step.values[index], step.constants);

// numbers that JSON has no name for stand as strings
const infinite = { "∞": Infinity, "−∞": -Infinity };
const revived = (text) => JSON.parse(text, (_, value) => infinite[value] ?? value);

// the index of the value that is nearest to one from the address
function nearest(values, wanted) {
  return values.reduce((best, value, i) => (Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? i : best), 0);
}

function open(steps) {
  const sliders = steps.map((step) => prepare(step, writeAddress));

  function writeAddress() {
    const moved = sliders.filter(({ step, slider }) => step.values[slider.value] !== step.start);
    const words = moved.map(({ step, slider }) => `${step.name}=${step.values[slider.value]}`);
    history.replaceState(null, "", `#${words.join("&")}`);
  }

  // #temperature=4&mixture=0.1: the state of every slider that is not where the page begins
  function readAddress() {
    const words = new URLSearchParams(location.hash.slice(1));
    if (document.getElementById(location.hash.slice(1))) return; // a link to a step
    for (const { step, slider, show } of sliders) {
      const wanted = words.has(step.name) ? Number(words.get(step.name)) : step.start;
      slider.value = nearest(step.values, Number.isFinite(wanted) ? wanted : step.start);
      show();
    }
    const first = sliders.find(({ step }) => words.has(step.name));
    if (first) document.getElementById(first.step.name).scrollIntoView();
  }

  addEventListener("hashchange", readAddress);
  readAddress();
  document.documentElement.classList.add("live");
}

// Make the slider, the presets and the question of a step work.
function prepare(step, moved) {
  const section = document.getElementById(step.name);
  const slider = section.querySelector("input[type=range]");
  const shown = section.querySelector(".value");
  const presets = [...section.querySelectorAll("button[data-value]")];
  const paths = [...section.querySelectorAll("path[data-mark]")];
  const names = [...section.querySelectorAll("text[data-mark]")];
  const numbers = [...section.querySelectorAll("[data-number]")];

  function show() {
    const index = Number(slider.value), view = viewOf(step, index);
    const words = step.words.length ? step.words[index] : say(step.values[index], step.digits);
    shown.textContent = words;
    slider.setAttribute("aria-valuetext", words);
    presets.forEach((preset) => preset.setAttribute("aria-pressed", Number(preset.dataset.value) === step.values[index]));
    const drawn = drawing(step.chart, view.series);
    paths.forEach((path) => path.setAttribute("d", drawn[path.dataset.mark].outline));
    names.forEach((name) => {
      name.setAttribute("x", drawn[name.dataset.mark].x);
      name.setAttribute("y", drawn[name.dataset.mark].y);
    });
    numbers.forEach((number) => {
      number.textContent = say(view.numbers[number.dataset.number], Number(number.dataset.digits));
    });
  }

  slider.addEventListener("input", () => { show(); moved(); });
  presets.forEach((preset) => preset.addEventListener("click", () => {
    slider.value = nearest(step.values, Number(preset.dataset.value));
    show();
    moved();
  }));
  section.querySelectorAll("input[type=radio]").forEach((choice) => choice.addEventListener("change", () => {
    const right = Number(choice.value) === step.answer;
    section.querySelector(".reply").textContent = right ? `Yes. ${step.why}` : "No. Try another answer.";
  }));
  return { step, slider, show };
}
