// Sixteen numbers over a histogram of weights: error, entropy and bits of a 4-bit code.
function explore(kit, data) {
  const names = Object.keys(data.codes);
  const code = kit.choice("code", { label: "Code", options: names, value: names[0] });
  const size = kit.slider("block", { label: "Block size", values: [16, 32, 64, 128, 256, 512, 1024, 4096], value: 64 });
  const outlier = kit.slider("outlier", { label: "Outlier in the first block", values: [0, 5, 10, 20, 30, 50, 100], value: 0, format: v => v ? `${v} σ` : "none" });
  const double = kit.toggle("double", { label: "Count scales as 8-bit (double quantisation)", value: false });
  const chart = kit.chart({ x: { label: "weight ÷ absmax of its block", domain: [-1, 1] }, y: { label: "weights", domain: [0, 300] }, height: 220,
                            alt: "Histogram of weights divided by the absmax of their block, with the code's numbers as lines" });
  const out = kit.readout();
  const sigma = Math.sqrt(data.weights.reduce((a, w) => a + w * w, 0) / data.weights.length);
  kit.draw(() => {
    const levels = data.codes[code.value], n = data.weights.length, w = data.weights.slice(), bins = 80;
    if (outlier.value) w[0] = outlier.value * sigma;
    const cuts = levels.slice(1).map((v, i) => (v + levels[i]) / 2), used = levels.map(() => 0), counts = new Array(bins).fill(0);
    let signal = 0, noise = 0;
    for (let b = 0; b < n; b += size.value) {
      let absmax = 1e-38;
      for (let i = b; i < b + size.value; i++) absmax = Math.max(absmax, Math.abs(w[i]));
      for (let i = b; i < b + size.value; i++) {
        const s = w[i] / absmax;
        let k = 0;
        while (k < cuts.length && s > cuts[k]) k++;
        used[k]++;
        counts[Math.min(bins - 1, Math.floor((s + 1) / 2 * bins))]++;
        if (i === 0 && outlier.value) continue;  // the outlier itself is always exact: judge the others
        signal += w[i] * w[i]; noise += (w[i] - levels[k] * absmax) ** 2;
      }
    }
    const entropy = used.reduce((a, u) => a - (u ? u / n * Math.log2(u / n) : 0), 0);
    const scales = double.value ? 8 / size.value + 32 / (size.value * 256) : 32 / size.value;
    chart.clear();
    chart.domain({ x: [-1.02, 1.02], y: [0, Math.max(...counts) * 1.05] });
    chart.bars(counts.map((y, i) => ({ x0: i / bins * 2 - 1, x1: (i + 1) / bins * 2 - 1, y, color: "base" })));
    for (const v of levels) chart.line([[v, 0], [v, Math.max(...counts) * 1.05]], { color: "other", width: 1 });
    out.show([["signal to noise", `${(10 * Math.log10(signal / noise)).toFixed(2)} dB`],
              ["mean squared error", (noise / n).toExponential(2)],
              ["entropy of the codes", `${entropy.toFixed(3)} bits of 4`],
              ["bits per weight", (4 + scales).toFixed(3)],
              ["codes in use", `${used.filter(u => u).length} of ${levels.length}`]]);
  });
}
