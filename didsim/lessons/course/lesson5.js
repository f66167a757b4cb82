// The model of lesson 5 that is live; the others need the solver, and come with the page.

models.race = (steps, { curves }) => {
  const names = ["dpo", "slic", "orpo", "simpo", "cal_dpo"];
  const now = Object.fromEntries(names.map((name) => [name, curves[name][steps / 20]]));
  const nearest = names.reduce((best, name) => (now[name] < now[best] ? name : best));
  const first = ["DPO", "SLiC", "ORPO", "SimPO", "Cal-DPO"][names.indexOf(nearest)];
  return { series: { ...curves, now: [steps] }, numbers: { steps, first, ...now } };
};
