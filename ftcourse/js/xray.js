// One conversation as tokens under several templates: which are trained, which are special, where a length limit cuts.
function explore(kit, data) {
  const names = Object.keys(data.templates);
  const template = kit.choice("template", { label: "Template", options: names, value: names[0] });
  const mask = kit.choice("mask", { label: "What is trained", options: ["the last answer", "every answer", "everything", "the last answer, without its end", "the last answer, one token late"] });
  const limit = kit.slider("limit", { label: "Cut after", values: [16, 32, 48, 64, 96, 128, 0], value: 0, format: v => v ? `${v} tokens` : "never" });
  const ids = kit.toggle("ids", { label: "Show ids", value: false });
  const asked = kit.toggle("asked", { label: "The prompt only (what is asked)", value: false });
  const panel = kit.panel({ class: "ft-xray", role: "group", "aria-label": "The row as tokens; trained ones are bold and underlined" });
  const out = kit.readout();
  const style = `.ft-xray { font: 13px/1.75 ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere; max-height: 26rem; overflow-y: auto; padding: .3rem 0; }
    .ft-xray span { display: inline-block; max-width: 100%; white-space: pre-wrap; border: 1px solid #8886; border-radius: 3px; margin: 1px; padding: 0 2px; line-height: 1.4; vertical-align: top; }
    .ft-xray .special { border-style: dashed; border-color: currentColor; } .ft-xray .trained { background: #2f967644; border-color: #2f9676; font-weight: 700; text-decoration: underline; }
    .ft-xray .cut { opacity: .55; text-decoration: line-through; background: none; font-weight: 400; } .ft-xray sub { display: inline-block; font-weight: 400; padding-left: .3em; opacity: .8; }`;
  // groups that are trained, as the choice says
  function chosen(t) {
    const on = t.groups.map(() => false), last = t.turns[t.turns.length - 1];
    const fill = ([a, b]) => { for (let i = a; i <= b; i++) if (i < on.length) on[i] = true; };
    if (mask.value === "everything") fill([0, on.length - 1]);
    else if (mask.value === "every answer") t.turns.forEach(fill);
    else if (mask.value === "the last answer, without its end") fill([last[0], last[1] - 1]);
    else if (mask.value === "the last answer, one token late") fill([last[0] + 1, last[1] + 1]);
    else fill(last);
    return on;
  }
  kit.draw(() => {
    const t = data.templates[template.value], on = chosen(t), start = t.turns[t.turns.length - 1][0];
    const shown = asked.value ? t.groups.slice(0, start) : t.groups;
    panel.replaceChildren();
    element(panel, "style", {}, style);
    let n = 0, trained = 0, lost = 0, total = 0, end = "", stops = false;
    shown.forEach(([text, numbers, special], i) => {
      const cut = limit.value && n + numbers.length > limit.value, taught = on[i] && !asked.value;
      n += numbers.length;
      total += numbers.length;
      if (taught && cut) lost += numbers.length;
      if (taught && !cut) { trained += numbers.length; end = text; stops ||= i === t.turns[t.turns.length - 1][1]; }
      const kind = [special && "special", taught && "trained", cut && "cut"].filter(Boolean).join(" ");
      const box = element(panel, "span", { class: kind, title: `id ${numbers.join(" ")}, ${taught ? "trained" : "not trained"}${cut ? ", cut off" : ""}` }, text.replaceAll("\n", "↵"));
      if (ids.value) element(box, "sub", {}, numbers.join(" "));
      for (const _ of text.matchAll(/\n/g)) element(panel, "br");
    });
    out.show([["tokens", total], ["trained", `${trained}`], ["trained, but cut off", `${lost}`], ["last trained token", end ? end.replaceAll("\n", "↵") : "none"],
              ["learns to stop", asked.value ? "nothing is trained here" : stops ? "yes" : "no"],
              ["every answer", t.refused ? "refused: one turn only" : `${t.turns.length} of them`]]);
  });
}
