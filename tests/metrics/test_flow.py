"""Flow through sections of a class: closed forms of tubes, straight, oblique and bent, on grids of unequal voxels."""

from __future__ import annotations

import numpy as np
import pytest

from unet4d.metrics.flow import FlowSections, face_areas_mm2, flow_volumes

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def elbow():
    """A square tube of 3 x 3 voxels that goes along X, then along Y; velocities carry 90 mL/s through each of its sections."""
    mask = np.zeros((14, 14, 5), bool)
    mask[1:11, 1:4, 1:4] = mask[8:11, 1:13, 1:4] = True
    velocity = {axis: np.zeros(mask.shape, np.float32) for axis in range(3)}
    velocity[0][1:8, 1:4, 1:4] = 90e3 / (9 * 12)  # a face across X has 12 mm2
    velocity[1][8:11, 4:13, 1:4] = 90e3 / (9 * 8)
    return mask, velocity


def test_areas_of_faces_are_those_of_a_sheared_voxel_too():
    assert face_areas_mm2(AFFINE).tolist() == [12, 8, 6]
    sheared = AFFINE.copy()
    sheared[0, 1] = 5.0
    assert face_areas_mm2(sheared)[2] == pytest.approx(6)
    assert face_areas_mm2(sheared)[0] == pytest.approx(4 * np.hypot(3, 5))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [1, -1])
def test_one_velocity_counts_in_planes_across_it(axis, sign):
    mask = np.zeros((5, 6, 7), bool)
    mask[1:4, 1:4, 1:4] = True
    velocity = {axis: np.where(mask, sign * 100.0, 7e5)}
    flows = FlowSections.of(mask, (axis,), AFFINE).flows_ml_s(mask, velocity)
    assert flows.tolist() == pytest.approx([sign * 9 * face_areas_mm2(AFFINE)[axis] * 100 / 1000] * 3)


def test_a_single_slice_counts_across_it_whatever_else_is_known():
    mask = np.zeros((6, 6, 1), bool)
    mask[2:4, 2:5] = True
    velocity = {axis: np.full(mask.shape, 100.0 * (axis + 1)) for axis in range(3)}
    assert FlowSections.of(mask, (0, 1, 2), AFFINE).flows_ml_s(mask, velocity).tolist() == pytest.approx([6 * 6 * 0.3])
    assert FlowSections.of(mask, (0, 1), AFFINE) is None


def test_two_velocities_decide_no_section_and_nothing_has_none():
    mask = np.ones((4, 4, 4), bool)
    assert FlowSections.of(mask, (0, 1), AFFINE) is None
    assert FlowSections.of(mask, (), AFFINE) is None
    assert FlowSections.of(np.zeros((4, 4, 4), bool), (0, 1, 2), AFFINE) is None


def test_a_tube_with_a_bend_carries_the_same_through_its_straight_parts():
    mask, velocity = elbow()
    sections = FlowSections.of(mask, (0, 1, 2), AFFINE)
    assert sections.distance[mask].min() == 0
    assert (sections.distance[~mask] == -1).all()
    flows = np.abs(sections.flows_ml_s(mask, velocity))
    straight = np.isclose(flows, 90, rtol=1e-5)
    assert straight.sum() >= 6
    assert len(set(np.sign(sections.flows_ml_s(mask, velocity))[straight])) == 1


def test_an_oblique_flow_without_divergence_is_the_same_through_every_section():
    """Uniform flow along the diagonal of a box: what crosses a face between voxels of the box and outside is no section's."""
    mask = np.zeros((20, 6, 6), bool)
    mask[2:18, 1:5, 1:5] = True
    velocity = {0: np.full(mask.shape, 50.0), 1: np.zeros(mask.shape), 2: np.zeros(mask.shape)}
    flows = np.abs(FlowSections.of(mask, (0, 1, 2), AFFINE).flows_ml_s(mask, velocity))
    assert flows[3:-3] == pytest.approx(16 * 12 * 50 / 1000)


def test_only_the_largest_part_counts():
    mask = elbow()[0]
    mask[0, 13, 0] = True
    sections = FlowSections.of(mask, (0, 1, 2), AFFINE)
    assert sections.distance[0, 13, 0] == -1


def test_a_frame_in_which_the_class_is_smaller_keeps_its_sections():
    mask, velocity = elbow()
    sections, thinner = FlowSections.of(mask, (0, 1, 2), AFFINE), mask.copy()
    thinner[:, :, 3] = False
    flows = np.abs(sections.flows_ml_s(thinner, velocity))
    assert np.isclose(flows, 60, rtol=1e-5).sum() >= 8


def test_sections_that_a_frame_does_not_reach_are_left_out():
    """A vessel that leaves the image, or is lost by the network, in some frames does not carry less."""
    mask = np.zeros((62, 5, 5), bool)
    mask[1:61, 1:4, 1:4] = True
    velocity = {0: np.full(mask.shape, 100.0), 1: np.zeros(mask.shape), 2: np.zeros(mask.shape)}
    sections, shorter = FlowSections.of(mask, (0, 1, 2), np.eye(4)), mask.copy()
    shorter[:31] = False
    flows = np.abs(sections.flows_ml_s(shorter, velocity))
    assert 20 < len(flows) < 40
    assert flows.mean() == pytest.approx(0.9, rel=0.05)
    assert not len(sections.flows_ml_s(np.zeros_like(mask), velocity))


def test_volumes_are_integrals_over_all_frames():
    found = flow_volumes(np.array([100.0, 50.0, -20.0, 0.0]), 0.1)
    assert (found.net_ml, found.forward_ml, found.backward_ml) == pytest.approx((13, 15, 2))
    assert found.regurgitant_fraction_percent == pytest.approx(100 * 2 / 15)
    assert flow_volumes(np.array([-1.0]), 0.1).regurgitant_fraction_percent is None
    assert flow_volumes(np.array([1.0, np.nan]), 0.1).net_ml is None
    assert flow_volumes(np.array([1.0]), None).net_ml is None
