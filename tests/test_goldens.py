"""Every number that was recorded from another implementation is compared with ours, or it is said why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
GOLDENS: dict[str, Any] = json.loads((FOLDER / "goldens.json").read_text(encoding="utf-8"))

# what was recorded -> where it stands in goldens.json
COMPARED = {
    "ties_ref_topk20": "ties_reference_trimmed/topk20",
    "ties_ref_topk50": "ties_reference_trimmed/topk50",
    "ties_ref_topk0.5": "ties_reference_trimmed/topk50",
    "ties_ref_topk50_mass_dis-mean": "ties_reference/topk50_mass_dis-mean",
    "ties_ref_topk50_mass_dis-sum": "ties_reference/topk50_mass_dis-sum",
    "ties_ref_topk50_mass_dis-max": "ties_reference/topk50_mass_dis-max",
    "ties_ref_topk50_mass_mean": "ties_reference/topk50_mass_mean",
    "ties_ref_topk50_normfrac_dis-mean": "ties_reference/topk50_normfrac_dis-mean",
    "ties_ref_topk50_normmass_dis-mean": "ties_reference/topk50_normmass_dis-mean",
    "ties_ref_notrim_mass_dis-mean": "ties_reference/notrim_mass_dis-mean",
    "ties_ref_signs_notrim": "signs_without_trim",
    "ties_fusion_bench_default_sum_thr50": "ties_reference/topk50_mass_dis-sum",
    "mergekit_ties_density.5_weights_1_2_-1": "ties_density_0.5_weights_1_2_-1_delta",
    "mergekit_ties_density.5_delta": "ties_density_0.5_delta",
    "mergekit_ties_density1_delta": "ties_density_1_delta",
    "mergekit_ties_density.5_trimmed": "trimmed_density_0.5",
    "mergekit_breadcrumbs_d.5_g.2_A": "breadcrumbs_density_0.5_gamma_0.2_A",
    "mergekit015_breadcrumbs_gamma0_A": "breadcrumbs_density_0.5_gamma_0_A",
    "mergekit_dare_seed0_B_density.5": "dare_mask_B_density_0.5",
    "mergekit_sce_delta_w_topk.5(recomposed from its functions)": "sce",
    "della_rank_magnitude_B_w_density.7_eps.07_seed0": "della_density_0.7_epsilon_0.07_B",
    "della_rank_magnitude_B_b": "della_density_0.7_epsilon_0.07_B",
    "mergekit_della_magprune_same_input": "della_density_0.7_epsilon_0.07_B",
    "dare_fusion_bench_B_sparsity.5_seed0": "dare_divided/drop_rate_0.5",
    "dare_mergelm_B_mask.5_seed0": "dare_divided/drop_rate_0.5",
    "dare_della_fork_bernoulli_B_density.5_seed0": "dare_divided/density_0.5",
    "mergelm_magnitude_mask.5_B": "magnitude_mask_0.5_B",
    "fr_filter_2x3_ratio.9_on_A_w": "fr_filter_2x3_A",
    "fr_filter_4x4": "fr_filter_4x4",
    "fr_filter_2x8_ratio.9": "fr_filter_2x8",
    "fr_llm_merge_w.8_lambda1.1_delta": "fr_language_models",
    "free_llm_merge_same_args_delta": "fr_language_models",
    "fr_llm_fp16": "fr_fp16",
    "fr_mask_5120x5120_ratio0.9": "fr_removed_bins",
    "fr_mask_13824x5120_ratio0.9": "fr_removed_bins",
    "fr_mask_5120x13824_ratio0.9": "fr_removed_bins",
    "fr_mask_32000x5120_ratio0.9": "fr_removed_bins",
    "fr_mask_768x768_ratio0.7": "fr_removed_bins",
    "fr_mask_3072x768_ratio0.7": "fr_removed_bins",
    "fr_mask_768x3072_ratio0.7": "fr_removed_bins",
    "fr_mask_2304x768_ratio0.7": "fr_removed_bins",
    "fr_mask_50265x768_ratio0.7": "fr_removed_bins",
    "fr_mask_768x768_ratio0.6_max": "fr_removed_bins",
    "fr_lm_fr_merging_defaults_delta_w": "fr_classifiers",
    "free_lm_top_rowwise_density.5": "free_lm_top_rowwise_density.5",
    "free_vit_cal_rescaling_keep.5": "free_vit_cal_rescaling_keep.5",
    "free_vit_sum_two_overlap_takes_expert": "free_vit_sum_two_overlap_takes_expert",
    "free_lm_private_task0_delta_w": "free_lm_private_task0_delta_w",
    "emr_dict_version": "emr_dict_version",
    "emr_fusion_bench": "emr_dict_version",
    "emr_flat_version": "emr_flat_version",
    "twin_discriminative_scaling.25_svd_mask.5": "twin_discriminative_scaling.25_svd_mask.5",
    "tsv_crisostomi_AB_ratio.5_mean": "tsv_AB",
    "tsvm_fusion_bench_AB": "tsv_AB",
    "tsv_crisostomi_AB_ratio.5_base_model": "tsv_AB_vectors_base",
    "tsvm_fusion_bench_ABC_min_dim2_T3": "tsv_ABC",
    "tsv_crisostomi_ABC_ratio_1_3": "tsv_ABC",
    "tsvm_lossless_AB": "tsv_AB_lossless",
    "tsvm_fusion_bench_4x5_T2": "two_4x5/tsv",
    "iso_c_crisostomi_ABC_uncompressed": "iso_c_singular_values_ABC",
    "iso_c_fusion_bench_ABC": "iso_c_ABC",
    "iso_cts_fusion_bench_4x5_T2_cf.5": "two_4x5/iso_cts_common_share_0.5",
    "magmax_ABC": "magmax",
    "model_stock_fb_AB": "model_stock_A_B",
    "model_stock_3models_w": "model_stock_three_ratio",
    "wudi_300it": "wudi_300_iterations_ABC",
    "tall_mask_lambda1": "tall_mask_lambda1",
    "consensus_mask_k2_from_lambda.4": "consensus",
    "tatr_zero_shot_q.5": "trust_region_quantile_0.5",
    "slerp_t.5_A_B_models": "slerp_t_0.5_A_B",
    "expo_alpha.1_A": "expo_alpha_0.1_A",
    "smile_gate_row_A_k1_abs": "smile_gate_row_A_k1_abs",
    "svc_alpha1_on_TA.5": "svc_alpha_1_task_arithmetic_0.5",
    "svc_alpha0_on_TA1": "svc_alpha_0_task_arithmetic_1",
    "svc_alpha1_two_identical_tasks": "svc_alpha_1_twice_A",
    "opcm_step_A_then_B_alpha.5_before_renorm": "opcm_AB_alpha_0.5",
    "pcb_merging_flat_ABC": "pcb_ratio",
}
# what was recorded -> why there is nothing to compare
NOT_COMPARED = {
    "flat_order_is_sorted_keys": "the inputs once more",
    "tie_rules": "words: each rule is in the test of its method",
    "ties_ref_topk1_means_100pct": "an error of that code: a density of 1 keeps everything",
    "ties_ref_nf0.9_mass_dis-mean": "no trim by a share of the norm",
    "mergekit_breadcrumbs_gamma0_A": "an error of mergekit 0.1.4, gone in 0.1.5, which is compared",
    "mergekit_breadcrumbs_d.5_g.01_A": "the same error",
    "mergekit_breadcrumbs_default_on_64elem": "the same error",
    "mergekit_sce_parts_w": "parts of a result that is compared",
    "mergekit_sce_bug_select_topk0_shape": "an error of mergekit: shapes are kept (tests/ops/methods/test_contract.py)",
    "della_rank_magnitude_layer_B_w_density.7_eps.07_seed0": "ranks are of rows, as in the method the paper proposes",
    "della_magnitude_sample_B_w_density.7_eps.07_seed0": "probabilities are of ranks, not of magnitudes",
    "della_one_column": "an error of that code: rows of one entry have a rank (tests/ops/methods/test_contract.py)",
    "mergekit_della_one_column": "the same error",
    "della_ties_row_density.5_A": "trims are of tensors or of the model, not of rows",
    "della_fp16_ranks_gpu_path": "an error of that code: ranks are whole numbers",
    "fr_filter_4x4_closed_form_check": "a remark on a golden that is compared",
    "fr_mask_3072x768_ratio0.6_max": "a radius beyond the spectrum, which no cutoff gives",
    "fr_effective_gain_is_symmetrised": "a bound: any shape is compared with the whole transform (test_fourier.py)",
    "fr_12x12_double_ring": "the same bound",
    "free_llm_expert_nonzeros_on_200x100": "an error of that code: its expert is always 0",
    "free_llm_task_model_absent": "an error of that code",
    "twin_llm_merge_w.8_lambda1.1_delta": "twin with a fixed expert in place of a router",
    "breadcrumbs_vit_rowwise_remove.34_keep.34_C": "trims are of tensors or of the model, not of rows",
    "free_vit_align_each_layer": "no alignment of magnitudes",
    "emr_zero_task": "0 / 0: such a task is warned of (tests/ops/methods/test_artifact_goldens.py)",
    "knots_AB": "no shared basis without a merge in it",
    "magnitude_diff_prune_.5_C": "trims are of tensors or of the model, not of rows",
    "bitdelta_sign_scale_A": "its scale is trained on data",
    "streaming_global_kth_two_histograms": "inputs were not recorded: thresholds are compared with sorted deltas",
}


def _stands(path: str) -> bool:
    """Whether goldens.json holds a value under this path."""
    value: Any = GOLDENS
    for key in path.split("/"):
        value = value.get(key) if isinstance(value, dict) else None
    return bool(value)


def test_a_golden_is_compared_or_it_is_said_why_not() -> None:
    tests = "".join(one.read_text(encoding="utf-8") for one in FOLDER.rglob("test_*.py") if one != Path(__file__))
    assert [path for path in COMPARED.values() if not _stands(path)] == []
    assert [path for path in COMPARED.values() if any(f'"{key}"' not in tests for key in path.split("/"))] == []
    assert not set(COMPARED) & set(NOT_COMPARED)


def test_what_is_recorded_here_comes_from_somewhere() -> None:
    assert set(GOLDENS) - {path.split("/")[0] for path in COMPARED.values()} == {"inputs"}
