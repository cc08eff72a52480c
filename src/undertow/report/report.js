(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var dark = window.matchMedia("(prefers-color-scheme: dark)");

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  /* Text, axes and labels take the page's colours; only the marks have their own. */
  function themed(layout) {
    var copy = JSON.parse(JSON.stringify(layout));
    var narrow = window.innerWidth < 560;
    copy.font = Object.assign({}, copy.font, {
      color: colour("--ink"),
      family: getComputedStyle(document.body).fontFamily,
      size: narrow ? 11 : 13
    });
    copy.hoverlabel = Object.assign({}, copy.hoverlabel, {
      bgcolor: colour("--raised"),
      bordercolor: colour("--line"),
      font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 13 }
    });
    copy.legend = Object.assign({}, copy.legend, { font: { color: colour("--ink") } });
    Object.keys(copy).forEach(function (key) {
      if (/^[xy]axis\d*$/.test(key)) {
        copy[key].gridcolor = colour("--grid");
        copy[key].linecolor = colour("--line");
        copy[key].zerolinecolor = colour("--line");
        copy[key].tickfont = Object.assign({}, copy[key].tickfont, { color: colour("--soft") });
      }
    });
    (copy.annotations || []).forEach(function (annotation) {
      annotation.font = Object.assign({}, annotation.font, { color: colour("--soft") });
    });
    copy.autosize = true;
    delete copy.width;
    return copy;
  }

  /* Numbers written into the cells of a heat map are text, so they take the page's ink. */
  function inked(data) {
    data.forEach(function (trace) {
      if (trace.type === "heatmap" && trace.texttemplate) {
        trace.textfont = Object.assign({}, trace.textfont, { color: colour("--ink") });
      }
    });
    return data;
  }

  function draw(id) {
    var place = document.getElementById(id);
    if (place) {
      Plotly.react(place, inked(figures[id].data), themed(figures[id].layout), {
        responsive: true,
        displaylogo: false,
        displayModeBar: false,
        scrollZoom: false
      });
    }
  }

  function drawAll() {
    Object.keys(figures).forEach(draw);
  }

  function choose(id, view) {
    var views = figures[id].views || {};
    Object.keys(views).forEach(function (title) {
      views[title].forEach(function (index) {
        figures[id].data[index].visible = views[view].indexOf(index) >= 0;
      });
    });
  }

  document.querySelectorAll("select[data-figure]").forEach(function (list) {
    list.addEventListener("change", function () {
      choose(list.dataset.figure, list.value);
      draw(list.dataset.figure);
    });
    /* A browser may bring back an earlier choice when the page is opened again. */
    choose(list.dataset.figure, list.value);
  });

  drawAll();
  if (dark.addEventListener) {
    dark.addEventListener("change", drawAll);
  }
})();
