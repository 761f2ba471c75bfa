package report

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// point is a point of a line.
type point struct{ x, y float64 }

// series is a line.
type series struct {
	name   string
	points []point
	color  string
	dash   bool
	bold   bool
}

// axis is how values become places.
type axis struct {
	label  string
	log    bool
	ticks  []float64              // empty: chosen
	format func(v float64) string // nil: short numbers
	lo, hi float64
	zero   bool // a linear axis that begins at 0
	bytes  bool // of bytes: marks at powers of two
}

const (
	chartW, chartH                 = 660, 340
	padLeft, padRight, padTop      = 64, 16, 12
	padBottom                      = 44
	plotW, plotH                   = chartW - padLeft - padRight, chartH - padTop - padBottom
	barRow, barLabel, barValueRoom = 22, 190, 170
)

func (a *axis) fit(values []float64) {
	if len(a.ticks) > 0 {
		values = append(slices.Clone(values), a.ticks[0], a.ticks[len(a.ticks)-1])
	}
	if len(values) == 0 {
		values = []float64{1}
	}
	a.lo, a.hi = slices.Min(values), slices.Max(values)
	if a.log {
		a.lo, a.hi = math.Log10(max(a.lo, 1e-9)), math.Log10(max(a.hi, 1e-9))
		if len(a.ticks) == 0 {
			a.lo, a.hi = a.lo-0.06, a.hi+0.06
		}
	} else if a.zero {
		a.lo, a.hi = 0, a.hi*1.06
	}
	if a.hi-a.lo < 1e-9 {
		a.lo, a.hi = a.lo-0.5, a.hi+0.5
	}
}

// at is where a value lies, from 0 to 1.
func (a *axis) at(v float64) float64 {
	if a.log {
		v = math.Log10(max(v, 1e-9))
	}
	return (v - a.lo) / (a.hi - a.lo)
}

func (a *axis) marks() (list []float64) {
	if len(a.ticks) > 0 {
		return a.ticks
	}
	if a.log {
		steps := []float64{1, 2, 5}
		if a.hi-a.lo > 2.2 {
			steps = []float64{1}
		}
		for e := math.Floor(a.lo); e <= a.hi; e++ {
			for _, s := range steps {
				if v := s * math.Pow(10, e); math.Log10(v) >= a.lo && math.Log10(v) <= a.hi {
					list = append(list, v)
				}
			}
		}
		return list
	}
	step := math.Pow(10, math.Floor(math.Log10((a.hi-a.lo)/3)))
	if a.bytes {
		step = math.Exp2(math.Ceil(math.Log2((a.hi - a.lo) / 6)))
	}
	for _, m := range []float64{1, 2, 5, 10} {
		if a.bytes || (a.hi-a.lo)/(step*m) <= 6 {
			step *= m
			break
		}
	}
	for v := math.Ceil(a.lo/step) * step; v <= a.hi+1e-9; v += step {
		list = append(list, v)
	}
	return list
}

func (a *axis) text(v float64) string {
	switch {
	case a.format != nil:
		return a.format(v)
	case a.bytes:
		return strings.Replace(Bytes(v), ".0 ", " ", 1)
	}
	return short(v)
}

// short writes a number with at most three digits and a unit.
func short(v float64) string {
	for _, u := range []struct {
		at   float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if math.Abs(v) >= u.at*0.9995 {
			return trim(v/u.at) + u.name
		}
	}
	return trim(v)
}

func trim(v float64) string {
	switch {
	case v == math.Trunc(v) || math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// lines draws a chart of lines with its legend.
func lines(x, y axis, list []series) string {
	var xs, ys []float64
	for _, s := range list {
		for _, p := range s.points {
			xs, ys = append(xs, p.x), append(ys, p.y)
		}
	}
	x.fit(xs)
	y.fit(ys)
	px := func(v float64) float64 { return padLeft + x.at(v)*plotW }
	py := func(v float64) float64 { return padTop + (1-y.at(v))*plotH }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img">`, chartW, chartH)
	for _, v := range y.marks() {
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text class="tick" x="%d" y="%.1f" text-anchor="end">%s</text>`,
			padLeft, padLeft+plotW, py(v), py(v), padLeft-8, py(v)+4, html.EscapeString(y.text(v)))
	}
	for _, v := range x.marks() {
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text class="tick" x="%.1f" y="%d" text-anchor="middle">%s</text>`,
			px(v), px(v), padTop, padTop+plotH, px(v), padTop+plotH+17, html.EscapeString(x.text(v)))
	}
	fmt.Fprintf(&b, `<text class="axis" x="%d" y="%d" text-anchor="middle">%s</text>`, padLeft+plotW/2, chartH-6, html.EscapeString(x.label))
	fmt.Fprintf(&b, `<text class="axis" x="14" y="%d" text-anchor="middle" transform="rotate(-90 14 %d)">%s</text>`, padTop+plotH/2, padTop+plotH/2, html.EscapeString(y.label))
	// What is bold comes last, above the others.
	drawn := slices.Clone(list)
	slices.SortStableFunc(drawn, func(a, b series) int {
		switch {
		case a.bold == b.bold:
			return 0
		case a.bold:
			return 1
		}
		return -1
	})
	for _, s := range drawn {
		width, dash := 1.7, ""
		if s.bold {
			width = 3.2
		}
		if s.dash {
			dash = ` stroke-dasharray="5 4"`
		}
		var d strings.Builder
		for i, p := range s.points {
			fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(i, 1)], px(p.x), py(p.y))
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="%.1f" stroke-linejoin="round"%s/>`, d.String(), s.color, width, dash)
		if len(s.points) <= 16 {
			for _, p := range s.points {
				fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="%.1f" fill="%s"><title>%s: %s at %s</title></circle>`, px(p.x), py(p.y), width+0.8, s.color,
					html.EscapeString(s.name), html.EscapeString(y.text(p.y)), html.EscapeString(x.text(p.x)))
			}
		}
	}
	b.WriteString(`</svg><div class="legend">`)
	for _, s := range list {
		style := "solid"
		if s.dash {
			style = "dashed"
		}
		weight := ""
		if s.bold {
			weight = ` class="bold"`
		}
		fmt.Fprintf(&b, `<span%s><i style="border-top:3px %s %s"></i>%s</span>`, weight, style, s.color, html.EscapeString(s.name))
	}
	b.WriteString(`</div>`)
	return b.String()
}

// bar is a bar with what is written beside it.
type bar struct {
	name  string
	value float64
	text  string
	color string
	bold  bool
}

// bars draws horizontal bars.
func bars(label string, list []bar, log bool) string {
	a := axis{log: log, zero: !log}
	var values []float64
	for _, v := range list {
		values = append(values, v.value)
	}
	a.fit(values)
	if log {
		a.lo -= 0.4 // the smallest is to be seen too
	}
	h := barRow*len(list) + 26
	room := float64(chartW - barLabel - barValueRoom)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img">`, chartW, h)
	for i, v := range list {
		y := i * barRow
		class := "name"
		if v.bold {
			class = "name bold"
		}
		fmt.Fprintf(&b, `<text class="%s" x="%d" y="%d" text-anchor="end">%s</text>`, class, barLabel-8, y+15, html.EscapeString(v.name))
		w := max(a.at(v.value)*room, 1)
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/><text class="%s" x="%.1f" y="%d">%s</text>`,
			barLabel, y+3, w, barRow-6, v.color, class, barLabel+w+6, y+15, html.EscapeString(v.text))
	}
	fmt.Fprintf(&b, `<text class="axis" x="%d" y="%d">%s</text></svg>`, barLabel, h-6, html.EscapeString(label))
	return b.String()
}
