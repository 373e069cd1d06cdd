"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const PAGE = 10, FEW = 7;
  const { items, shares } = JSON.parse(at("data").textContent);
  const NAMES = {
    candidates: "candidates and scores",
    thoughts: "thoughts in place",
    rollouts: "rollouts with thoughts",
    probe: "the thought-use probe",
    comparisons: "held-out comparisons",
    continuations: "free continuations",
  };
  let limit = PAGE;

  /* Everything below becomes text, never markup: textContent only. */
  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const wordsOf = (item) =>
    (item.found ??= item.blocks.map((b) => b.label + " " + b.note + " " + b.pieces.map((p) => p[1]).join("")).join("\n").toLowerCase());

  const fill = (select, values, names) => {
    const before = select.value;
    select.replaceChildren(...values.map((value) => {
      const option = make("option", "", names[value] ?? value);
      option.value = value;
      return option;
    }));
    if (values.includes(before)) select.value = before;
  };
  const kinds = () => Object.keys(NAMES).filter((kind) => items.some((item) => item.kind === kind));
  const arms = () => [...new Set(items.filter((item) => item.kind === at("kind").value).map((item) => item.arm))];

  const blockOf = (block) => {
    const row = make("div", "block" + (block.tone ? " tone-" + block.tone : ""));
    const who = make("div", "who", block.label);
    if (block.note) who.append(make("small", "", block.note));
    const text = make("p");
    for (const [kind, piece] of block.pieces) {
      if (kind === "h") text.append(make("mark", "thought", piece));
      else text.append(make("span", kind === "d" ? "given" : "", piece));
    }
    row.append(who, text);
    return row;
  };
  const cardOf = (item) => {
    const card = make("article", "item");
    const head = make("header");
    head.append(make("b", "", item.arm), make("span", "", item.where));
    if (item.score !== null) head.append(make("span", "", item.scored + " " + item.score.toFixed(3)));
    card.append(head, ...item.blocks.slice(0, item.blocks.length > FEW + 1 ? FEW : FEW + 1).map(blockOf));
    if (item.blocks.length > FEW + 1) {
      const rest = make("button", "rest", "Show " + (item.blocks.length - FEW - 1) + " between");
      rest.type = "button";
      rest.addEventListener("click", () => rest.replaceWith(...item.blocks.slice(FEW, -1).map(blockOf)));
      card.append(rest, blockOf(item.blocks.at(-1)));
    }
    return card;
  };

  const chosen = () => {
    const kind = at("kind").value, arm = at("arm").value, order = at("order").value;
    const words = at("search").value.trim().toLowerCase();
    const found = items.filter((item) => item.kind === kind && (arm === "all" || item.arm === arm) && (!words || wordsOf(item).includes(words)));
    const sign = order === "worst" ? 1 : -1;
    if (order !== "made") found.sort((a, b) => (a.score === null) - (b.score === null) || sign * (a.score - b.score));
    return found;
  };
  const embedded = () => {
    const kind = at("kind").value, arm = at("arm").value;
    const some = shares.filter((share) => share.kind === kind && (arm === "all" || share.arm === arm));
    const sum = (key) => some.reduce((total, share) => total + share[key], 0);
    return sum("shown") === sum("of") ? "all " + sum("of") + " of the run" : sum("shown") + " of " + sum("of") + " of the run, the best and the worst among them,";
  };
  const show = () => {
    if (!items.length) {
      at("count").textContent = "The run has no texts yet.";
      return;
    }
    const found = chosen();
    at("items").replaceChildren(...found.slice(0, limit).map(cardOf));
    at("count").textContent = found.length + " found; " + embedded() + " are in this page.";
    at("more").hidden = found.length <= limit;
  };
  const again = () => {
    limit = PAGE;
    show();
  };
  const choose = () => {
    const found = arms();
    fill(at("arm"), found.length > 1 ? ["all", ...found] : found, { all: "all" });
    again();
  };

  fill(at("kind"), kinds(), NAMES);
  at("kind").addEventListener("change", choose);
  for (const id of ["arm", "order"]) at(id).addEventListener("change", again);
  at("search").addEventListener("input", again);
  at("filter").addEventListener("submit", (event) => event.preventDefault());
  at("more").addEventListener("click", () => {
    limit += PAGE;
    show();
  });
  at("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
  choose();
})();
