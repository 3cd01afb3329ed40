// Search over the local index, theme, contents on narrow screens, copying of code, place on the page.
(() => {
  "use strict";
  const html = document.documentElement, root = html.dataset.root + "/";
  const $ = (id) => document.getElementById(id);
  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

  $("theme").addEventListener("click", () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const theme = (html.dataset.theme || system) === "dark" ? "light" : "dark";
    html.dataset.theme = theme;
    try { localStorage.setItem("theme", theme); } catch { /* pages opened as files may have no storage */ }
  });

  const menu = (open) => {
    document.body.classList.toggle("menu", open);
    $("menu").setAttribute("aria-expanded", open);
    if (open) $("sidebar").querySelector("[aria-current], summary").focus();
  };
  $("menu").addEventListener("click", () => menu(!document.body.classList.contains("menu")));
  const current = $("sidebar").querySelector("[aria-current]");
  if (current) $("sidebar").scrollTop = current.offsetTop - innerHeight / 2;

  // Search: MiniSearch over search.js. Words without accents and plurals; all of them, or else some; pages before claims.
  const query = $("query"), hits = $("hits");
  const STOP = new Set("a about an and are be can do does for from get have how i in is it my of on or the this to use using we what when where which who why with you your".split(" "));
  const SAME = { colab: "jupyterlab", dataset: "data", emd: "auction", fid: "frechet", image: "picture", photo: "picture", install: "setup", video: "clip", gpu: "device", bf16: "precision", fp16: "precision", amp: "precision", cli: "command", faq: "start" };
  const plain = (word) => word.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase().replace(/(?<=\w{2}[^s\W])s$/, "");
  const script = (name) => new Promise((done) => document.head.append(make("script", { src: root + name, onload: done, onerror: done })));
  const rank = (name, heading) => (/^claims\//.test(name) ? 0.05 : 1) * (heading ? 1 : 2);
  let loading, chosen = -1, index;
  const load = () => loading ||= Promise.all([script("search.js"), script("minisearch.js")]).then(() => {
    if (!window.searchIndex || !window.MiniSearch) return;
    index = new MiniSearch({
      fields: ["title", "words", "name", "page", "text"],
      processTerm: (term) => { const word = plain(term); return word && !STOP.has(word) ? word : null; },
      searchOptions: {
        boost: { title: 10, words: 6, name: 4, page: 1.5 }, prefix: (term) => term.length > 2, weights: { prefix: 0.3, fuzzy: 0.1 },
        boostDocument: (id) => rank(window.searchIndex[id][0], window.searchIndex[id][2]),
      },
    });
    index.addAll(window.searchIndex.map(([, page, heading, text, words], id) => ({ id, title: heading ? "" : page, name: heading, page: heading ? page : "", words: words || "", text })));
  });
  const find = (text) => {
    const asked = text.split(/[\s\p{P}]+/u).map(plain).filter((word) => word && !STOP.has(word));
    const terms = { combineWith: "AND", queries: asked.map((word) => SAME[word] ? { combineWith: "OR", queries: [word, SAME[word]] } : word) };
    if (!index || !asked.length) return [];
    const symbol = /[_.A-Z]/.test(text) && text.trim();
    const exact = (hit) => symbol && window.searchIndex[hit.id][2] === symbol;
    const all = index.search(terms).sort((a, b) => exact(b) - exact(a));
    const some = all.length > 2 ? [] : index.search({ ...terms, combineWith: "OR" }, { fuzzy: (term) => term.length > 5 ? 0.2 : false });
    return [...all, ...some.filter((hit) => !all.some((other) => other.id === hit.id))];
  };
  const marked = (parent, text, words) => {
    const pattern = new RegExp("(" + words.map((w) => w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|") + ")", "i");
    text.split(pattern).forEach((part, i) => parent.append(i % 2 ? make("mark", { textContent: part }) : part));
    return parent;
  };
  const excerpt = (text, words) => {
    const at = Math.max(0, ...words.map((w) => text.toLowerCase().indexOf(w)));
    const start = at > 70 ? text.indexOf(" ", at - 60) + 1 : 0;
    return (start ? "… " : "") + text.slice(start, start + 170);
  };
  const choose = (i) => {
    const links = [...hits.querySelectorAll("a")];
    if (!links.length) return;
    chosen = (i + links.length) % links.length;
    links.forEach((a, k) => a.setAttribute("aria-selected", k === chosen));
    links[chosen].scrollIntoView({ block: "nearest" });
    query.setAttribute("aria-activedescendant", links[chosen].id);
  };
  const show = (open) => {
    hits.hidden = !open;
    query.setAttribute("aria-expanded", open);
    if (!open) query.removeAttribute("aria-activedescendant");
  };
  const search = async () => {
    await load();
    if (!query.value.trim()) return show(false);
    const best = find(query.value), pages = {};
    const found = best.filter(({ id }) => { const page = window.searchIndex[id][0].split("#")[0]; return (pages[page] = (pages[page] || 0) + 1) <= 2; }).slice(0, 12);
    hits.replaceChildren(...found.map(({ id, terms: words }, i) => {
      const [url, page, heading, text] = window.searchIndex[id];
      const link = make("a", { href: root + url, id: "hit-" + i, tabIndex: -1 });
      link.setAttribute("role", "option");
      link.append(marked(make("b"), heading || page, words));
      if (heading) link.append(make("span", { className: "where", textContent: " · " + page }));
      if (text) link.append(marked(make("p"), excerpt(text, words), words));
      return link;
    }));
    if (!found.length) hits.append(make("div", { className: "none", textContent: "Nothing found" }));
    show(true);
    choose(0);
  };
  query.addEventListener("focus", load);
  query.addEventListener("input", search);
  query.addEventListener("keydown", (e) => {
    if (e.key === "ArrowDown") choose(chosen + 1);
    else if (e.key === "ArrowUp") choose(chosen - 1);
    else if (e.key === "Enter") { const link = hits.querySelectorAll("a")[chosen]; if (link && !hits.hidden) { show(false); link.click(); query.blur(); } }
    else return;
    e.preventDefault();
  });
  hits.addEventListener("click", () => show(false));
  document.addEventListener("click", (e) => { if (!e.target.closest(".search")) show(false); });
  document.addEventListener("keydown", (e) => {
    if (e.key === "Escape") { show(false); query.blur(); if (document.body.classList.contains("menu")) { menu(false); $("menu").focus(); } }
    if (e.key === "/" && !e.ctrlKey && !e.metaKey && !e.target.closest("input, textarea")) { e.preventDefault(); query.focus(); query.select(); }
  });

  if (navigator.clipboard) for (const block of document.querySelectorAll("div.sourceCode")) {
    const button = make("button", { type: "button", className: "copy", textContent: "Copy" });
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1200);
    });
    block.append(button);
  }

  // Tables with a verdict in each row can be filtered; without this script they are complete. ?page=... comes from a badge.
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.querySelectorAll("th")].map((th) => th.textContent.trim()), rows = [...table.tBodies[0].rows];
    if (!heads.includes("verdict") || rows.length < 5) continue;
    const bar = make("div", { className: "filters" }), text = make("input", { type: "search", placeholder: "Filter" }), count = make("output", {});
    text.setAttribute("aria-label", "Filter the rows");
    const column = (name) => heads.indexOf(name), value = (row, i) => row.cells[i].textContent.trim();
    const picks = ["verdict", "tier", "run", "about", "family", "task"].filter((name) => column(name) >= 0).map((name) => {
      const select = make("select", {}), found = new Set(rows.flatMap((row) => value(row, column(name)).replace(/^\W+ /, "").split(/, /)));
      select.setAttribute("aria-label", "Show only this " + name);
      select.append(make("option", { value: "", textContent: "any " + name }), ...[...found].sort().map((v) => make("option", { value: v, textContent: v })));
      return [column(name), select];
    });
    const apply = () => {
      const words = text.value.toLowerCase();
      let shown = 0;
      for (const row of rows) {
        const fits = row.textContent.toLowerCase().includes(words) && picks.every(([i, select]) => value(row, i).replace(/^\W+ /, "").split(/, /).includes(select.value) || !select.value);
        row.hidden = !fits;
        shown += fits;
      }
      count.textContent = shown + " of " + rows.length;
    };
    const wanted = new URLSearchParams(location.search).get("page");
    for (const [i, select] of picks) if (heads[i] === "about" && [...select.options].some((o) => o.value === wanted)) select.value = wanted;
    bar.append(text, ...picks.map(([, select]) => select), count);
    bar.addEventListener("input", apply);
    (table.closest(".table") || table).before(bar);
    table.classList.add("verdicts");
    if (table.querySelector("td img")) {
      table.classList.add("gallery");
      for (const row of rows) [...row.cells].forEach((cell, i) => { cell.dataset.head = heads[i]; });
    }
    apply();
  }

  // A link into a folded implementation opens it.
  const unfold = () => { let n = location.hash && $(decodeURIComponent(location.hash.slice(1))); for (; n; n = n.parentElement) if (n.tagName === "DETAILS") n.open = true; };
  addEventListener("hashchange", unfold);
  unfold();

  const links = new Map([...document.querySelectorAll(".toc li a")].map((a) => [$(decodeURIComponent(a.hash.slice(1))), a]));
  const place = () => {
    let here = null;
    for (const heading of links.keys()) if (heading && heading.getBoundingClientRect().top < innerHeight / 4) here = heading;
    links.forEach((a, heading) => a.classList.toggle("here", heading === here));
  };
  addEventListener("scroll", place, { passive: true });
  place();
})();
