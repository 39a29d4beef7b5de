package benchmark

import (
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"handoff64/tools/lab/compare"
)

// Size of all plots.
const (
	plotWidth  = 18 * vg.Centimeter
	plotHeight = 11 * vg.Centimeter
)

// colors that can be told apart by those who see fewer (Okabe and Ito).
var colors = []color.Color{
	color.RGBA{0, 114, 178, 255}, color.RGBA{213, 94, 0, 255}, color.RGBA{0, 158, 115, 255}, color.RGBA{204, 121, 167, 255}, color.RGBA{86, 180, 233, 255},
	color.RGBA{230, 159, 0, 255},
}

var grey = color.Gray{110}

// Plot draws what was measured, as SVG files in a folder.
func (r Results) Plot(dir string) error {
	if r.Memory != nil {
		if err := r.Memory.plotThroughput(filepath.Join(dir, "throughput-over-flows.svg")); err != nil {
			return err
		}
		if err := r.Memory.plotCost(filepath.Join(dir, "cost-over-flows.svg")); err != nil {
			return err
		}
	}
	if r.Devices != nil {
		if err := r.Devices.plotThroughput(filepath.Join(dir, "devices.svg")); err != nil {
			return err
		}
		return r.Devices.plotLatency(filepath.Join(dir, "latency.svg"))
	}
	return nil
}

// newPlot has what all plots share.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	for style, size := range map[*text.Style]vg.Length{
		&p.Title.TextStyle: 12, &p.X.Label.TextStyle: 10, &p.Y.Label.TextStyle: 10, &p.X.Tick.Label: 9, &p.Y.Tick.Label: 9, &p.Legend.TextStyle: 9,
	} {
		style.Font.Variant, style.Font.Size = "Sans", size
	}
	p.Title.Padding = 3 * vg.Millimeter
	p.X.Padding, p.Y.Padding = 0, 0
	p.X.Label.Padding, p.Y.Label.Padding = 2*vg.Millimeter, 2*vg.Millimeter
	p.Legend.ThumbnailWidth = 9 * vg.Millimeter
	p.Legend.Padding = vg.Millimeter
	p.BackgroundColor = color.White
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{225}, color.Gray{225}
	p.Add(grid)
	return p
}

// savePlot draws with a margin, on white also where the reader's page is dark.
func savePlot(p *plot.Plot, path string) (err error) {
	svg := vgsvg.New(plotWidth, plotHeight)
	c := draw.New(svg)
	corners := []vg.Point{{}, {X: plotWidth}, {X: plotWidth, Y: plotHeight}, {Y: plotHeight}}
	c.FillPolygon(color.White, corners)
	const margin = 4 * vg.Millimeter
	p.Draw(draw.Crop(c, margin, -3*margin, margin, -margin))
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	if _, err = svg.WriteTo(f); err != nil {
		err = fmt.Errorf("plot %s: %w", path, err)
	}
	return errors.Join(err, f.Close())
}

// flowAxis is logarithmic with the numbers of flows as its marks.
func flowAxis(p *plot.Plot) {
	p.X.Scale = plot.LogScale{}
	var ticks []plot.Tick
	for _, n := range flowCounts {
		ticks = append(ticks, plot.Tick{Value: float64(n), Label: thousands(float64(n))})
	}
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	p.X.Min, p.X.Max = 0.7, 1.5e6
}

// line adds a line with its points, and its name to the legend.
func line(p *plot.Plot, name string, i int, points plotter.XYs) error {
	l, s, err := plotter.NewLinePoints(points)
	if err != nil {
		return fmt.Errorf("plot %s: %w", name, err)
	}
	l.Color, l.Width = colors[i%len(colors)], 1.4
	s.Color, s.Radius, s.Shape = l.Color, 2.6, []draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.RingGlyph{}}[i%4]
	p.Add(l, s)
	p.Legend.Add(name, l, s)
	return nil
}

// ranges adds a bar from the least to the greatest of each point.
func ranges(p *plot.Plot, i int, points plotter.XYs, spreads []compare.Spread, of func(float64) float64) error {
	errs := make(plotter.YErrors, len(points))
	for k, s := range spreads {
		a, b := of(s.Min), of(s.Max)
		errs[k].Low, errs[k].High = points[k].Y-min(a, b), max(a, b)-points[k].Y
	}
	bars, err := plotter.NewYErrorBars(struct {
		plotter.XYer
		plotter.YErrorer
	}{points, errs})
	if err != nil {
		return fmt.Errorf("plot ranges: %w", err)
	}
	bars.Color, bars.CapWidth = colors[i%len(colors)], 1.5*vg.Millimeter
	p.Add(bars)
	return nil
}

// overFlows adds a line for each kind of traffic.
func (b *Benchmarks) overFlows(p *plot.Plot, of func(float64) float64) error {
	flowAxis(p)
	for i, s := range streams {
		var points plotter.XYs
		var spreads []compare.Spread
		for _, n := range flowCounts {
			c := b.cost(s.name, n)
			if c.Median == 0 {
				continue // not measured
			}
			// A little apart, so that the bars can be told from each other.
			points = append(points, plotter.XY{X: float64(n) * math.Pow(1.06, float64(i)-1.5), Y: of(c.Median)})
			spreads = append(spreads, c)
		}
		if len(points) == 0 {
			continue
		}
		if err := ranges(p, i, points, spreads, of); err != nil {
			return err
		}
		if err := line(p, s.label, i, points); err != nil {
			return err
		}
	}
	return nil
}

func (b *Benchmarks) plotThroughput(path string) error {
	p := newPlot("One worker in memory: throughput", "established flows, taken in turn", "million packets a second")
	if err := b.overFlows(p, func(ns float64) float64 { return 1e3 / ns }); err != nil {
		return err
	}
	p.Y.Min = 0
	steps(p, 2)
	p.Legend.Top = true
	return savePlot(p, path)
}

func (b *Benchmarks) plotCost(path string) error {
	p := newPlot("One worker in memory: cost of a packet", "established flows, taken in turn", "processor time, ns")
	if err := b.overFlows(p, func(ns float64) float64 { return ns }); err != nil {
		return err
	}
	var points plotter.XYs
	for i, n := range flowCounts {
		points = append(points, plotter.XY{X: float64(n), Y: goals[i]})
	}
	goal, err := plotter.NewLine(points)
	if err != nil {
		return fmt.Errorf("plot goals: %w", err)
	}
	goal.Color, goal.Dashes = grey, []vg.Length{vg.Points(4), vg.Points(3)}
	p.Add(goal)
	p.Legend.Add("goal", goal)
	p.Y.Min = 0
	steps(p, 20)
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs = true, true, 2*vg.Millimeter
	return savePlot(p, path)
}

// steps puts a mark with its number on every so many units, from 0.
func steps(p *plot.Plot, every float64) {
	var ticks []plot.Tick
	for v := 0.0; v <= p.Y.Max; v += every {
		ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%.4g", v)})
	}
	p.Y.Tick.Marker = plot.ConstantTicks(ticks)
}

// plotThroughput has a group of bars for each device: 6→4, many flows.
func (d *Devices) plotThroughput(path string) error {
	p := newPlot("End to end over veth, 6→4, 10,000 flows", "", "million packets a second")
	frames := d.frames()
	var names []string
	values := make([]plotter.Values, len(frames))
	for _, m := range d.Compared.Throughput {
		if m.Case.Direction != "64" || m.Case.Flows == 1 {
			continue
		}
		if !slices.Contains(names, shortName(m.Device)) {
			names = append(names, shortName(m.Device))
		}
		i := slices.Index(frames, m.Case.Frame)
		values[i] = append(values[i], m.Mpps.Median)
	}
	const width = 9 * vg.Millimeter
	for i, v := range values {
		bars, err := plotter.NewBarChart(v, width)
		if err != nil {
			return fmt.Errorf("plot devices: %w", err)
		}
		bars.Color, bars.LineStyle.Width = colors[i], 0
		bars.Offset = width * vg.Length(float64(i)-float64(len(values)-1)/2)
		p.Add(bars)
		p.Legend.Add(fmt.Sprintf("%s octets", thousands(float64(frames[i]))), bars)
	}
	p.NominalX(names...)
	p.Y.Min, p.Y.Max = 0, 1.2*p.Y.Max // room for the legend
	steps(p, 0.2)
	p.Legend.Top = true
	return savePlot(p, path)
}

// shortName fits below a bar.
func shortName(device string) string {
	return map[string]string{"forward": "pktgen forward", "asavie": "asavie/xdp", "tayga": "TAYGA", "kernel": "kernel forwarding"}[device] + map[string]string{"nat64d": "nat64d"}[device]
}

// plotLatency has a line for each device: how many packets took at most how
// long. Percentiles near 100 are spread out.
func (d *Devices) plotLatency(path string) error {
	p := newPlot("Delay at 10,000 packets/s of 80 octets, 6→4", "per cent of packets", "at most so many µs")
	far := func(percent float64) float64 { return -math.Log10(1 - percent/100) }
	i := 0
	for _, m := range d.Compared.Latency {
		if m.Case.Direction != "64" || len(m.Curve) == 0 {
			continue
		}
		var points plotter.XYs
		for _, c := range m.Curve {
			points = append(points, plotter.XY{X: far(c.P), Y: max(c.US, 0.1)})
		}
		name := shortName(m.Device)
		if poll := pollOf(m); poll != "" {
			name += ", " + poll
		}
		if err := line(p, name, i, points); err != nil {
			return err
		}
		i++
	}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	var ticks []plot.Tick
	for _, percent := range []float64{1, 25, 50, 75, 90, 95, 99, 99.9} {
		label := fmt.Sprintf("%.4g", percent)
		ticks = append(ticks, plot.Tick{Value: far(percent), Label: label})
	}
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs = true, true, 2*vg.Millimeter
	return savePlot(p, path)
}
