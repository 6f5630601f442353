// Parameters, file and scale of LoRA against rank and alpha. Counts per rank come from Python (`lora_count`).
function explore(kit, data) {
  const names = Object.keys(data.models);
  const model = kit.choice("model", { label: "Model", options: names, value: names[0] });
  const target = kit.choice("target", { label: "Adapters on", options: Object.keys(data.models[names[0]].per_r), value: "all linear" });
  const r = kit.slider("r", { label: "Rank r", values: [1, 2, 4, 8, 16, 32, 64, 128, 256], value: 16 });
  const alpha = kit.slider("alpha", { label: "alpha", values: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512], value: 16 });
  const chart = kit.chart({ x: { label: "rank r", domain: [1, 256], log: true, ticks: [1, 2, 4, 8, 16, 32, 64, 128, 256] }, y: { label: "scale of the update", domain: [1e-3, 600], log: true },
    height: 210, alt: "Scale of the update against rank, for LoRA and rsLoRA" });
  const out = kit.readout();
  const ranks = Array.from({ length: 33 }, (_, i) => 2 ** (i / 4));
  kit.draw(() => {
    const m = data.models[model.value], trained = r.value * m.per_r[target.value];
    chart.clear();
    chart.line(ranks.map(q => [q, alpha.value / q]), { color: "trained", label: "LoRA, α/r" });
    chart.line(ranks.map(q => [q, alpha.value / Math.sqrt(q)]), { color: "other", label: "rsLoRA, α/√r" });
    chart.dots([[r.value, alpha.value / r.value]], { color: "trained", r: 5 });
    chart.dots([[r.value, alpha.value / Math.sqrt(r.value)]], { color: "other", r: 5 });
    out.show([["trainable parameters", trained.toLocaleString("en")], ["share of the model", (100 * trained / m.total).toPrecision(3) + " %"],
      ["adapter file, 32 bits", kit.tidy(4 * trained / 2 ** 20) + " MiB"], ["with gradients and Adam", kit.tidy(16 * trained / 2 ** 20) + " MiB"],
      ["scale, LoRA", alpha.value / r.value], ["scale, rsLoRA", alpha.value / Math.sqrt(r.value)]]);
  });
}
