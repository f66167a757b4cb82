// The models of lesson 3: what lesson3.py computes with the library.

models["bradley-terry"] = (difference, { at }) => ({
  series: { curve: at.map(sigmoid), now: [difference, sigmoid(difference)] },
  numbers: { difference, chance: sigmoid(difference), odds: Math.exp(difference) },
});

models.weight = (beta, { at }) => {
  const pull = (m) => -losses.dpo(m - 9, -9, -9, -9, { beta })[1] / beta;
  return {
    series: { loss: at.map((m) => losses.dpo(m - 9, -9, -9, -9, { beta })[0]), weight: at.map(pull), now: [2, pull(2)] },
    numbers: { start: pull(0), solved: pull(2), unsolved: pull(at[20]) },
  };
};

models.bystanders = (steps, { log_ref: logRef }) => {
  const only = (k) => logRef.map((_, i) => (i === k ? 0 : -Infinity));
  const problem = { logRef, logW: only(0), logL: only(1) };
  let logits = logRef;
  for (let i = 0; i < steps; i++) logits = gradientStep("dpo", { beta: 1 }, logits, problem, 0.5);
  const logPi = logSoftmax(logits), policy = probabilities(logPi);
  const margin = Math.log(policy[0] / 0.15) - Math.log(policy[1] / 0.45);
  return {
    series: { policy, reference: probabilities(logRef) },
    numbers: { steps, chosen: policy[0], rejected: policy[1], third: policy[2], margin },
  };
};
