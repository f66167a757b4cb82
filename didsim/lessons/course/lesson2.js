// The models of lesson 2: what lesson2.py computes with the library.

const dot = (p, values) => sum(p.map((chance, i) => chance * values[i]));
const tilted = (logRef, reward, beta) => logSoftmax(logRef.map((lp, i) => lp + reward[i] / beta));

models.tilt = (beta, { log_ref: logRef, reward }) => {
  const policy = probabilities(tilted(logRef, reward, beta)), reference = probabilities(logRef);
  return {
    series: { policy, reference },
    numbers: { reward: dot(policy, reward), start: dot(reference, reward), best: policy[0] },
  };
};

models.frontier = (beta, { log_ref: logRef, reward, at }) => {
  const gain = (b) => dot(probabilities(tilted(logRef, reward, b)), reward);
  const price = kl(tilted(logRef, reward, beta), logRef);
  const free = beta * logSumExp(logRef.map((lp, i) => lp + reward[i] / beta));
  return {
    series: { gains: at.map(gain), now: [price, gain(beta)] },
    numbers: { beta, price, gain: gain(beta), value: gain(beta) - beta * price, free },
  };
};

models.implicit = (beta, { log_ref: logRef, reward }) => {
  const policy = tilted(logRef, reward, 1), last = reward.length - 1;
  const read = policy.map((lp, i) => beta * (lp - logRef[i]));
  return {
    series: { read },
    numbers: { slope: (read[last] - read[0]) / (reward[last] - reward[0]), shift: read[0] - beta * reward[0] },
  };
};
