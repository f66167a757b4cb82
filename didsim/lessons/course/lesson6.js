// The models of lesson 6: what lesson6.py computes with the library.

const atTemperature = (logRef, tau) => logSoftmax(logRef.map((value) => value / tau));
const learnt = (logRef, tau) => did(atTemperature(logRef, tau), logRef);

models.reinforce = (tau, { log_ref: logRef, at }) => {
  const now = entropy(learnt(logRef, tau)), start = entropy(logRef);
  const kind = tau < 1 ? "reinforces" : tau > 1 ? "smooths" : "does nothing";
  const side = now < start - 1e-9 ? "below" : now > start + 1e-9 ? "above" : "equal to";
  return {
    series: { did: at.map((t) => entropy(learnt(logRef, t))), start: [start], now: [tau, now] },
    numbers: { tau, kind, did: now, side, start },
  };
};

models.smooth = (tau, { reference, at }) => {
  const logRef = logSoftmax(reference.map(Math.log)), q = learnt(logRef, tau), start = entropy(logRef);
  return {
    series: { did: at.map((t) => entropy(learnt(logRef, t))), start: [start], now: [tau, entropy(q)] },
    numbers: { tau, first: Math.exp(q[0]), did: entropy(q), side: entropy(q) < start ? "below" : "above", start },
  };
};

models.size = (range, { log_ref: logRef, direction, at }) => {
  const most = Math.log(32);
  const moved = (r) => logSoftmax(logRef.map((lp, i) => lp + r * direction[i]));
  const loss = (r) => most - entropy(did(moved(r), logRef)), room = most - entropy(logRef);
  return {
    series: { loss: at.map(loss), bound: at.map((r) => r ** 2 / 8), room: [room], now: [range, loss(range)] },
    numbers: { range, loss: loss(range), bound: range ** 2 / 8, room },
  };
};

models.displacement = (tau, { log_ref: logRef, at }) => {
  const chosen = (t) => expectation(logRef, atTemperature(logRef, t).map((lp, i) => lp - logRef[i]));
  const excess = (t) => entropy(learnt(logRef, t)) - entropy(logRef);
  return {
    series: {
      chosen: at.map(chosen), excess: at.map(excess), zero: [0], now: [tau, chosen(tau)], then: [tau, excess(tau)],
    },
    numbers: { tau, chosen: chosen(tau), excess: excess(tau) },
  };
};
