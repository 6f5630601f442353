// The learning rate over a run: what `get_scheduler` of transformers gives, step by step.
function explore(kit, data) {
  const kind = kit.choice("kind", { label: "Schedule", options: ["linear", "cosine", "constant_with_warmup"], value: "linear" });
  const peak = kit.slider("peak", { label: "Peak learning rate", values: [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3], value: data.peak });
  const steps = kit.slider("steps", { label: "Steps", min: 10, max: 200, step: 1, value: data.steps });
  const warmup = kit.slider("warmup", { label: "Warm-up steps", min: 0, max: 50, step: 1, value: data.warmup });
  const chart = kit.chart({ x: { label: "step" }, y: { label: "learning rate" }, height: 190, alt: "Learning rate at each step" });
  const out = kit.readout();
  function rate(t) {  // the rate that step t uses, t = 0 … steps - 1
    const w = warmup.value, n = steps.value;
    if (t < w) return peak.value * t / Math.max(1, w);
    if (kind.value === "constant_with_warmup") return peak.value;
    const left = Math.max(0, n - t) / Math.max(1, n - w);
    return peak.value * (kind.value === "linear" ? left : Math.max(0, .5 * (1 + Math.cos(Math.PI * (1 - left)))));
  }
  kit.draw(() => {
    const rates = Array.from({ length: steps.value }, (_, t) => rate(t)), sum = rates.reduce((a, b) => a + b, 0);
    chart.clear();
    chart.domain({ x: [0, steps.value], y: [0, peak.value * 1.05] });
    chart.rule({ x: warmup.value, label: "warm-up ends", color: "base" });
    chart.line(rates.map((r, t) => [t, r]), { color: "trained" });
    out.show([["first step", rates[0]], ["last step", rates[rates.length - 1]], ["mean rate", sum / steps.value],
              ["furthest a weight can drift, about", sum]]);
  });
}
