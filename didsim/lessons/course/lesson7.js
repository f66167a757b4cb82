// The models of lesson 7: what lesson7.py computes with the library.

models.mutual = (relevance, { popularity, signal, at }) => {
  const table = (s) => signal.map((row) => logSoftmax(row.map((value, i) => popularity[i] + s * value)));
  const prompts = signal.map(() => Math.log(0.25)), even = popularity.map(() => -Math.log(popularity.length));
  const information = (s) => mutualInformation(table(s), prompts);
  const price = (s) => expectation(prompts, table(s).map((row) => kl(row, even)));
  return {
    series: {
      information: at.map(information), uniform: at.map(price), most: [Math.log(4)],
      now: [relevance, information(relevance)], then: [relevance, price(relevance)],
    },
    numbers: {
      information: information(relevance), uniform: price(relevance), gap: price(relevance) - information(relevance),
    },
  };
};

models.popularity = (boost, { at }) => {
  const prompts = [0.5, 0.5].map(Math.log);
  const table = (b) => [[0.5, 0.5], [0.75, 0.25]].map(([p, q]) => logSoftmax([Math.log(p * b), Math.log(q)]));
  const byPolicy = (b) => table(b)[0][0] - table(b)[0][1];
  const byPmi = (b) => pmi(table(b), prompts)[0][0] - pmi(table(b), prompts)[0][1];
  return {
    series: { log_pi: at.map(byPolicy), pmi: at.map(byPmi), now: [boost, byPmi(boost)] },
    numbers: { boost, log_pi: byPolicy(boost), pmi: byPmi(boost), start: byPmi(1) },
  };
};

models.prior = (power, { log_ref: logRef, log_rejected: logL, log_target: logTarget, at }) => {
  const q = did(logTarget, logRef);
  const end = (a) => tilt(logRef.map((lp) => a * lp), logRef, logL, 1);
  const target = (a) => js(logTarget, end(a)), toDid = (a) => js(q, end(a));
  return {
    series: {
      target: at.map(target), did: at.map(toDid), now: [power, target(power)], then: [power, toDid(power)],
    },
    numbers: { power, target: target(power), did: toDid(power) },
  };
};

models.alpha = (strength, { log_ref: logRef, log_target: logTarget, at }) => {
  const q = did(logTarget, logRef); // where SimPO ends
  const end = (a) => logSoftmax(logRef.map((lp, i) => lp + (q[i] - lp) / (1 - a)));
  const target = (a) => js(logTarget, end(a));
  return {
    series: { target: at.map(target), dpo: [0], now: [strength, target(strength)] },
    numbers: { strength, target: target(strength), kl: kl(end(strength), logRef), simpo: kl(end(0), logRef) },
  };
};

models.margin = (delta, { at }) => {
  const gamma = (d) => 0.3 + 1.3 * Math.exp(-Math.max(0, d));
  return {
    series: { margin: at.map(gamma), most: [1.6], least: [0.3], now: [delta, gamma(delta)] },
    numbers: { delta, margin: gamma(delta) },
  };
};
