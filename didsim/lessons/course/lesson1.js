// The models of lesson 1: what lesson1.py computes with the library.

const cooled = (logits, tau) => logSoftmax(logits.map((logit) => logit / tau));

models.temperature = (tau, { logits }) => {
  const policy = probabilities(cooled(logits, tau));
  return {
    series: { reference: probabilities(logits), policy },
    numbers: { largest: policy[0], smallest: policy[31] },
  };
};

models.entropy = (tau, { logits, at }) => {
  const now = entropy(cooled(logits, tau)), most = Math.log(32);
  return {
    series: { entropy: at.map((t) => entropy(cooled(logits, t))), now: [tau, now], most: [most] },
    numbers: { entropy: now, gap: most - now, count: Math.exp(now) },
  };
};

models.divergence = (tau, { logits, at }) => {
  const out = (t) => kl(cooled(logits, t), logits), back = (t) => kl(logits, cooled(logits, t));
  return {
    series: { out: at.map(out), back: at.map(back), out_now: [tau, out(tau)], back_now: [tau, back(tau)] },
    numbers: { tau, out: out(tau), back: back(tau) },
  };
};

models.support = (share, { at }) => {
  const p = logSoftmax([0.1, 0.9].map(Math.log)), q = (s) => logSoftmax([s, 1 - s].map(Math.log));
  const forth = (s) => kl(p, q(s)), back = (s) => kl(q(s), p), even = (s) => js(p, q(s));
  return {
    series: {
      kl: at.map(forth), js: at.map(even), back: at.map(back),
      kl_now: [share, forth(share)], js_now: [share, even(share)],
    },
    numbers: { share, kl: forth(share), js: even(share), back: back(share) },
  };
};
