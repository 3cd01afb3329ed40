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

  // Search: every word must occur; names beat headings, headings beat prose.
  const query = $("query"), hits = $("hits");
  let loading, chosen = -1;
  const load = () => loading ||= new Promise((done) => document.head.append(make("script", { src: root + "search.js", onload: done, onerror: done })));
  const score = ([url, page, heading, text], words) => {
    const name = (heading || page).toLowerCase(), all = (page + " " + heading + " " + text).toLowerCase();
    let total = 0;
    for (const word of words) {
      if (!all.includes(word)) return 0;
      total += name === word ? 60 : name.startsWith(word) ? 25 : name.includes(word) ? 12 : page.toLowerCase().includes(word) ? 5 : 1;
    }
    return total + (heading ? 0 : 3) - text.length / 1e5;
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
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return show(false);
    const found = (window.searchIndex || []).map((entry) => [score(entry, words), entry]).filter(([s]) => s > 0).sort((a, b) => b[0] - a[0]).slice(0, 12);
    hits.replaceChildren(...found.map(([, [url, page, heading, text]], i) => {
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
