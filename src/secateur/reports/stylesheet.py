"""The looks of the HTML report: one style sheet, for light, dark, narrow windows and paper."""

STYLESHEET = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --panel: #f6f7f9; --text: #16191d; --ink: #4a5159; --line: #c9ced6; --hair: #e4e7ec;
  --accent: #0b5fa5; --good: #0a6b4a; --fair: #8a5200; --bad: #b3261e; --alarm: #c2410c;
  --series-1: #0072b2; --series-2: #c8500a; --series-3: #007d5b; --series-4: #a8487f;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --panel: #1d2125; --text: #e9ecef; --ink: #aeb6bf; --line: #4d555e; --hair: #2c3238;
    --accent: #7cc0f5; --good: #5fd0a5; --fair: #f0b65c; --bad: #ff8f85; --alarm: #ff9a4d;
    --series-1: #56b4e9; --series-2: #f0883e; --series-3: #2fc79b; --series-4: #e39ac4;
  }
  figure svg image { filter: brightness(1.45); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}
main, header, footer { max-width: 68rem; margin: 0 auto; padding: 0 clamp(1rem, 4vw, 2.5rem); }
header { padding-top: clamp(1.25rem, 4vw, 2.75rem); }
footer { padding-top: 1rem; padding-bottom: 2rem; color: var(--ink); font-size: .875rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.125rem); line-height: 1.2; margin: 0; overflow-wrap: anywhere;
  letter-spacing: -.015em; text-wrap: balance; }
h2 { font-size: 1.1875rem; line-height: 1.3; margin: 0 0 .625rem; letter-spacing: -.005em; }
section { margin-top: 2.5rem; }
p { max-width: 46rem; margin: 0 0 .625rem; overflow-wrap: anywhere; }
ul { max-width: 46rem; margin: 0; padding-left: 1.25rem; overflow-wrap: anywhere; }
li + li { margin-top: .25rem; }
code, pre { font: .875em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
pre { margin: 0; padding: .75rem 1rem; background: var(--panel); border-radius: .5rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }

.origin { display: flex; flex-wrap: wrap; gap: .125rem 1.75rem; margin: .5rem 0 0; color: var(--ink); }
.origin dt, .origin dd { display: inline; }
.origin dt::after { content: ": "; }
.origin dd { margin: 0; color: var(--text); font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }

.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 10.5rem), 1fr));
  gap: .75rem; margin: 1.5rem 0 0; padding: 0; }
.facts > div { background: var(--panel); border-radius: .625rem; padding: .875rem 1rem; display: flex;
  flex-direction: column; }
.facts dt { color: var(--ink); font-size: .875rem; }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.facts .value { font-size: 1.25rem; line-height: 1.3; font-weight: 650; letter-spacing: -.015em; }
.facts .detail { color: var(--ink); font-size: .8125rem; text-wrap: balance; margin-top: .125rem; }
.good { color: var(--good); } .fair { color: var(--fair); } .bad { color: var(--bad); }

.scroll { overflow-x: auto; background:
  linear-gradient(to left, var(--page) 50%, transparent) right / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / .625rem 100% no-repeat scroll; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9375rem; line-height: 1.4; }
th, td { padding: .4375rem .75rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--hair); }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--ink); font-weight: 500; font-size: .8125rem; vertical-align: bottom;
  border-bottom-color: var(--line); max-width: 9rem; }
tbody th { font-weight: 500; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead .number { white-space: normal; }
thead .unit { white-space: nowrap; }
td code, th code { white-space: nowrap; }
.long { min-width: min(16rem, 50vw); max-width: 32rem; overflow-wrap: anywhere; }
.long code { white-space: normal; }
.wide { width: 100%; }
.result tbody tr:last-child > * { font-weight: 650; }
.result tbody tr:last-child > .long { font-weight: 400; }

details { border-radius: .5rem; }
summary { cursor: pointer; color: var(--accent); padding: .25rem 0; width: fit-content; }
details > .scroll { margin-top: .5rem; }

figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 36rem; font-family: inherit; }
figure svg text { font-family: inherit; font-variant-numeric: tabular-nums; }
figcaption { color: var(--ink); font-size: .875rem; margin-top: .375rem; max-width: 36rem; }
.figures { display: grid; gap: 1.75rem 2.5rem; margin: .75rem 0 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }

.parts { display: flex; max-width: 46rem; gap: 2px; margin: 0 0 .75rem; padding: 0; list-style: none;
  font-size: .8125rem; line-height: 1.35; color: var(--ink); font-variant-numeric: tabular-nums; }
.parts li { min-width: 7.25rem; flex-basis: 0; margin: 0; }
.parts li::before { content: ""; display: block; height: .625rem; margin-bottom: .375rem;
  background: var(--series-1); }
.parts li:first-child::before { opacity: .3; border-radius: .3125rem 0 0 .3125rem; }
.parts li:nth-child(2)::before { opacity: .6; }
.parts li:last-child::before { border-radius: 0 .3125rem .3125rem 0; }
.parts strong, .parts span { display: block; padding-right: .5rem; }
.parts strong { white-space: nowrap; color: var(--text); font-weight: 600; }

@media (max-width: 30rem) {
  .facts { gap: .5rem; grid-template-columns: 1fr 1fr; }
  .facts > div { padding: .625rem .75rem; }
  .facts .value { font-size: 1.125rem; }
}

@media print {
  :root { color-scheme: light; }
  body { font-size: 10pt; }
  main, header, footer { max-width: none; padding-left: 0; padding-right: 0; }
  section { margin-top: 1.5rem; }
  h2, section > p:not(:last-child), summary, thead { break-after: avoid; }
  figure, tr, .facts > div { break-inside: avoid; }
  .facts > div, pre { border: 1px solid var(--hair); }
  .scroll { overflow: visible; background: none; }
  table { font-size: .8125rem; }
  th, td { padding-left: .375rem; padding-right: .375rem; }
  .long { min-width: 8rem; }
  details::details-content { content-visibility: visible; block-size: auto; }
  summary { list-style: none; }
}
"""
