// The memory planner: the formulas of `ftcourse.budget`, computed here; a test holds the two against each other, to the byte.
function explore(kit, data) {
  const names = Object.keys(data.models);
  const model = kit.choice("model", { label: "Model", options: names, value: data.start });
  const method = kit.choice("method", { label: "Method", options: ["full", "lora", "qlora"], value: "lora" });
  const dtype = kit.choice("dtype", { label: "Format", options: ["bfloat16", "mixed", "float32"], value: "bfloat16" });
  const adapters = kit.choice("adapters", { label: "Adapters on", options: ["all linear", "q, v"], value: "all linear" });
  const seq = kit.slider("seq", { label: "Tokens of a row", values: [128, 256, 512, 1024, 2048, 4096, 8192, 16384], value: 2048 });
  const batch = kit.slider("batch", { label: "Rows of a batch", values: [1, 2, 4, 8, 16, 32], value: 1 });
  const r = kit.slider("r", { label: "Rank r", values: [1, 4, 8, 16, 32, 64, 128], value: 16 });
  const optimizer = kit.choice("optimizer", { label: "Optimizer", options: ["adamw", "adamw-8bit", "paged-adamw-8bit", "sgd"], value: "adamw" });
  const loss = kit.choice("loss", { label: "Logits", options: ["all positions", "a quarter labelled", "in 8 chunks"], value: "all positions" });
  const ckpt = kit.toggle("checkpointing", { label: "Gradient checkpointing", value: false });
  const gpu = kit.choice("gpu", { label: "GPU", options: Object.keys(data.gpus), value: "rtx-4090" });
  const moments = ["loss", "head", "last block", "first block", "embedding", "update"];
  const colours = { weights: "base", adapters: "trained", gradients: "fifth", optimizer: "sixth", activations: "other", logits: "wrong", scratch: "#c9ced6" };
  const chart = kit.chart({ x: { label: "moment of a step (last, first: of the blocks)", domain: [0, 6], ticks: [.5, 1.5, 2.5, 3.5, 4.5, 5.5], format: t => moments[Math.floor(t)].replace(" block", "").replace("ding", "") },
    y: { label: "GB" }, height: 260, alt: "Bytes by kind at six moments of a training step, and the memory of the GPU" });
  const out = kit.readout(), sum = xs => xs.reduce((a, b) => a + b, 0);

  function bytes() {  // [moment][kind]
    const a = data.models[model.value], full = method.value === "full", d = a.d_model, f = a.d_ff, V = a.vocab, L = a.layers;
    const tokens = seq.value * batch.value, mixed = dtype.value === "mixed", e = dtype.value === "float32" ? 4 : 2, ne = mixed ? 4 : e;
    const cast = !full && dtype.value === "bfloat16", on = n => full || adapters.value === "all linear" || n === "q_proj" || n === "v_proj";
    const hit = a.linears.filter(([n]) => on(n)), linear = sum(a.linears.map(([, i, o]) => i * o)), params = a.params;
    const trained = full ? params : L * sum(hit.map(([, i, o]) => r.value * (i + o))), size = full ? (dtype.value === "bfloat16" ? 2 : 4) : 4;
    const w = dtype.value === "bfloat16" ? 2 : 4, up64 = n => Math.ceil(n / 64);
    const nf4 = n => Math.ceil(n / 2) + up64(n) + 4 * Math.ceil(up64(n) / 256) + 4;
    const weights = method.value === "qlora" ? (params - L * linear) * w + L * sum(a.linears.map(([, i, o]) => nf4(i * o))) : params * w;
    const states = { adamw: 2 * trained * size, "adamw-8bit": 2 * trained + 8 * Math.ceil(trained / 256) }[optimizer.value] || 0;
    const input = (width, list, kept) => {  // what linear layers keep of an input they share
      const n = list.filter(on).length;
      if (cast) return 4 * width * n;
      if (mixed && !full) return e * width * n;
      return kept || !n ? 0 : e * width * (mixed ? n : 1);
    };
    const norm = (grad, width) => (grad ? 4 * width + 4 : 0) + (full ? ne * width : 0);
    const q = a.heads * a.head_dim, k = a.kv_heads * a.head_dim, qkv = ["q_proj", "k_proj", "v_proj"];
    const block = grad => {  // bytes that one block keeps
      let token = norm(grad, d) + input(d, qkv) + (2 * q + 2 * k) * e + 4 * a.heads;
      if (a.kind === "qwen3") token += a.heads * norm(grad || on("q_proj"), a.head_dim) + a.kv_heads * norm(grad || on("k_proj"), a.head_dim);
      token += input(q, ["o_proj"], true) + norm(true, d) + input(d, ["gate_proj", "up_proj"]) + 3 * f * e + input(f, ["down_proj"]);
      let copies = 0;
      if (!full) token += (cast ? 4 : e) * r.value * hit.length;
      if (!full && mixed) copies = 2 * sum(hit.map(([n, i, o]) => r.value * (o + i * (grad || !qkv.includes(n) ? 1 : 0))));
      if (mixed) copies += 2 * sum(a.linears.filter(([n]) => full || grad || !qkv.includes(n)).map(([, i, o]) => i * o));
      return tokens * token + copies;
    };
    const one = block(true), blocks = block(full || ckpt.value) + (L - 1) * one;
    const rest = tokens * norm(true, d) + 2 * seq.value * a.head_dim * ne + (full ? 8 * tokens : 0);
    const labelled = loss.value === "a quarter labelled", chunks = loss.value === "in 8 chunks" ? 8 : 1;
    const shown = labelled ? batch.value * seq.value / 4 : tokens, piece = Math.ceil(shown / chunks), table = V * d;
    const inputs = L * tokens * d * ne, kept = ckpt.value ? inputs : blocks, again = ckpt.value ? one - inputs / L : 0;
    const hidden = full ? (labelled || chunks > 1 ? shown : tokens) * d * e : 0, late = rest + hidden + (mixed ? 2 * table : 0);
    const all = trained * size, head = full ? table * size : 0, scratch = tokens * (2 * f + d) * e;
    const perBlock = full ? (linear + a.block_other) * size : Math.floor(trained / L) * size, once = mixed ? 1.5 : chunks > 1 ? 2 : 1;
    const rows = [[0, kept + late, 12 * V * piece, 0], [head * once, kept + late, e * V * piece, 0], [head, kept + again, 0, scratch],
      [Math.max(0, all - perBlock), one, 0, scratch], [all + (full && a.tied ? (mixed ? 1 : 2) * table * size : 0), rest, 0, 0], [all, 0, 0, 0]];
    return rows.map(([gradients, activations, logits, s]) => ({ weights, adapters: full ? 0 : all, optimizer: states, gradients, activations, logits, scratch: s }));
  }

  kit.draw(() => {
    const rows = bytes(), totals = rows.map(b => sum(Object.values(b))), most = Math.max(...totals), at = totals.indexOf(most);
    const limit = data.gpus[gpu.value];
    chart.clear();
    chart.domain({ x: [0, 6], y: [0, 1.08 * Math.max(most / 1e9, most > limit / 2 ? limit / 1e9 : 0)] });
    rows.forEach((b, i) => {
      let y0 = 0;
      chart.bars(Object.entries(b).filter(([, v]) => v > 0).map(([kind, v]) => ({ x0: i + .12, x1: i + .88, y0, y: y0 += v / 1e9, color: colours[kind], label: kind, opacity: i === at ? 1 : .45 })));
    });
    if (most > limit / 2) chart.rule({ y: limit / 1e9, label: gpu.value, color: "wrong" });
    const gb = v => `${kit.tidy(v / 1e9)} GB`, b = rows[at];
    out.show([["peak", gb(most)], ["at the moment", moments[at]], ["bytes", Math.round(most).toLocaleString("en")], [`fits ${gpu.value}`, most <= limit ? `yes, ${gb(limit - most)} free` : `no, ${gb(most - limit)} too much`],
      ...Object.entries(b).filter(([, v]) => v > 0).map(([k, v]) => [k, gb(v)])]);
  });
}
