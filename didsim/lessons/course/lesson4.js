// The models of lesson 4: what lesson4.py computes with the library.

const scaled = (values, factor) => logSoftmax(values.map((value) => value * factor));
const centred = (values) => values.map((value) => value - sum(values) / values.length);

models.information = (tau, { log_ref: logRef }) => {
  const target = scaled(logRef, 1 / tau), q = did(target, logRef), p = probabilities(q);
  return {
    series: { did: p, target: probabilities(target) },
    numbers: { first: p[0], last: p[31], entropy: entropy(q) },
  };
};

models.construction = (tau, { log_ref: logRef }) => {
  const target = scaled(logRef, 1 / tau), rejected = scaled(logRef, 2 - 1 / tau);
  return {
    series: { reference: logRef, target, rejected },
    numbers: {
      tau,
      span: rejected[0] - rejected[31],
      kept: target[0] - target[31],
      apart: tv(did(logRef, rejected), did(target, logRef)),
    },
  };
};

models["ideal-rejected"] = (beta, { log_ref: logRef, log_target: logTarget }) => {
  const worse = idealRejected(logRef, logTarget, beta);
  return {
    series: { learnt: centred(did(logRef, worse)) },
    numbers: { beta, chance: preferences(logRef, worse)[31][0], mass: Math.exp(worse[0]) },
  };
};

models.mismatch = (beta, { log_ref: logRef, log_target: logTarget, at }) => {
  const worse = idealRejected(logRef, logTarget, 1);
  const end = (b) => tilt(logRef, logRef, worse, 1 / b);
  const distance = (b) => js(logTarget, end(b));
  return {
    series: { distance: at.map(distance), now: [beta, distance(beta)] },
    numbers: { beta, distance: distance(beta), moved: kl(end(beta), logRef) },
  };
};
