#ifndef itkVoxtileSegmentationImageFilter_hxx
#define itkVoxtileSegmentationImageFilter_hxx

#include "itkVoxtileSegmentationImageFilter.h"

#include <algorithm>
#include <limits>

namespace itk
{
namespace VoxtileDetail
{

/** The library's name of a type of voxels; 0 for those that it does not read. */
template <typename T>
constexpr uint32_t
ElementType()
{
  if (std::is_floating_point<T>::value)
  {
    return sizeof(T) == 4 ? VOXTILE_F32 : sizeof(T) == 8 ? VOXTILE_F64 : 0;
  }
  const bool isSigned = std::is_signed<T>::value;
  switch (sizeof(T))
  {
    case 1:
      return isSigned ? VOXTILE_I8 : VOXTILE_U8;
    case 2:
      return isSigned ? VOXTILE_I16 : VOXTILE_U16;
    case 4:
      return isSigned ? VOXTILE_I32 : VOXTILE_U32;
    default:
      return 0;
  }
}

/** Shows messages as ITK's warnings. */
inline void
Log(void *, int32_t level, const char * message)
{
  if (level == VOXTILE_LOG_WARNING)
  {
    itkGenericOutputMacro(<< message);
  }
}

} // namespace VoxtileDetail

template <typename TInputImage, typename TLabelImage>
const voxtile::Model &
VoxtileSegmentationImageFilter<TInputImage, TLabelImage>::OpenModel()
{
  if (!m_Model || m_OpenedModel != m_ModelFileName)
  {
    if (m_ModelFileName.empty())
    {
      itkExceptionMacro(<< "no model: SetModelFileName names a model package (.safetensors)");
    }
    m_Session.reset();
    m_Model.reset(); // before the next takes memory
    try
    {
      m_Model = std::make_unique<voxtile::Model>(m_ModelFileName);
    }
    catch (const voxtile::Error & error)
    {
      itkExceptionMacro(<< error.what());
    }
    m_OpenedModel = m_ModelFileName;
  }
  return *m_Model;
}

template <typename TInputImage, typename TLabelImage>
voxtile::Session &
VoxtileSegmentationImageFilter<TInputImage, TLabelImage>::OpenSession()
{
  const voxtile::Model & model = this->OpenModel();
  const std::string      wanted =
    std::to_string(m_Device) + ' ' + std::to_string(m_Threads) + ' ' + std::to_string(m_MemoryBudget) + ' ' +
    std::to_string(m_Precision) + ' ' + std::to_string(m_DeviceMemoryBudget);
  if (!m_Session || m_OpenedSession != wanted)
  {
    m_Session.reset();
    auto options = voxtile::make<voxtile_session_options>();
    options.device = m_Device;
    options.threads = m_Threads;
    options.host_budget = m_MemoryBudget;
    options.precision = m_Precision;
    options.device_budget = m_DeviceMemoryBudget;
    options.log = VoxtileDetail::Log;
    m_Session = std::make_unique<voxtile::Session>(model, options);
    m_OpenedSession = wanted;
  }
  return *m_Session;
}

template <typename TInputImage, typename TLabelImage>
auto
VoxtileSegmentationImageFilter<TInputImage, TLabelImage>::GetLabelNames() -> LabelNamesType
{
  LabelNamesType names;
  for (const voxtile::Label & label : this->OpenModel().labels())
  {
    names[label.value] = label.name;
  }
  return names;
}

template <typename TInputImage, typename TLabelImage>
void
VoxtileSegmentationImageFilter<TInputImage, TLabelImage>::GenerateInputRequestedRegion()
{
  Superclass::GenerateInputRequestedRegion();
  if (auto * input = const_cast<TInputImage *>(this->GetInput()))
  {
    input->SetRequestedRegionToLargestPossibleRegion();
  }
}

template <typename TInputImage, typename TLabelImage>
void
VoxtileSegmentationImageFilter<TInputImage, TLabelImage>::EnlargeOutputRequestedRegion(
  DataObject * output)
{
  Superclass::EnlargeOutputRequestedRegion(output);
  output->SetRequestedRegionToLargestPossibleRegion();
}

template <typename TInputImage, typename TLabelImage>
void
VoxtileSegmentationImageFilter<TInputImage, TLabelImage>::GenerateData()
{
  const TInputImage * input = this->GetInput();
  const auto          region = input->GetLargestPossibleRegion();
  const auto          buffered = input->GetBufferedRegion();
  if (!buffered.IsInside(region))
  {
    itkExceptionMacro(<< "the input's voxels are not all in memory: " << buffered);
  }
  this->AllocateOutputs();
  TLabelImage * output = this->GetOutput();

  const size_t           channels = input->GetNumberOfComponentsPerPixel();
  const ComponentType *  voxels = input->GetBufferPointer();
  constexpr uint32_t     element = VoxtileDetail::ElementType<ComponentType>();
  std::vector<double>    converted;
  auto                   volume = voxtile::make<voxtile_volume>();
  size_t                 voxelBytes = channels * sizeof(ComponentType);
  const size_t           first = static_cast<size_t>(input->ComputeOffset(region.GetIndex()));
  volume.dtype = element;
  volume.data = voxels + first * channels;
  volume.channel_stride = static_cast<int64_t>(sizeof(ComponentType));
  if (element == 0)
  {
    const size_t count = buffered.GetNumberOfPixels() * channels;
    converted.assign(voxels, voxels + count);
    volume.dtype = VOXTILE_F64;
    volume.data = converted.data() + first * channels;
    volume.channel_stride = sizeof(double);
    voxelBytes = channels * sizeof(double);
  }
  volume.channels = static_cast<uint32_t>(channels);
  typename TInputImage::PointType origin;
  input->TransformIndexToPhysicalPoint(region.GetIndex(), origin);
  int64_t stride = static_cast<int64_t>(voxelBytes);
  size_t  count = 1;
  for (unsigned int axis = 0; axis < 3; ++axis)
  {
    volume.dims[axis] = static_cast<int64_t>(region.GetSize(axis));
    count *= region.GetSize(axis);
    volume.strides[axis] = stride;
    stride *= static_cast<int64_t>(buffered.GetSize(axis));
    volume.spacing[axis] = input->GetSpacing()[axis];
    volume.origin[axis] = origin[axis];
    for (unsigned int row = 0; row < 3; ++row)
    {
      volume.direction[3 * row + axis] = input->GetDirection()(row, axis);
    }
  }

  auto options = voxtile::make<voxtile_run_options>();
  options.mirror = m_Mirror;
  options.raw = m_Raw;
  options.tile_step = m_TileStep;
  options.keep = m_KeepLabels.data();
  options.keep_count = static_cast<uint32_t>(m_KeepLabels.size());
  m_Cleanup.set_in(options);

  auto                   found = voxtile::make<voxtile_output>();
  // Labels of another type than the library's are made beside the output.
  constexpr bool         direct = VoxtileDetail::ElementType<LabelType>() == VOXTILE_U8 ||
                          VoxtileDetail::ElementType<LabelType>() == VOXTILE_U16;
  std::vector<uint16_t>  beside(direct ? 0 : count);
  found.labels_dtype = direct ? VoxtileDetail::ElementType<LabelType>() : uint32_t{ VOXTILE_U16 };
  found.labels = direct ? static_cast<void *>(output->GetBufferPointer()) : beside.data();
  found.labels_size = count * (direct ? sizeof(LabelType) : sizeof(uint16_t));

  try
  {
    voxtile::Session & session = this->OpenSession();
    float              reached = 0;
    session.run(volume, found, options, [&](const voxtile_progress & progress) {
      if (progress.total > 0)
      {
        const float share = static_cast<float>(progress.done) / static_cast<float>(progress.total);
        reached = std::max(reached, std::min(share, 1.0f));
      }
      this->UpdateProgress(reached);
      return !this->GetAbortGenerateData();
    });
  }
  catch (const voxtile::Error & error)
  {
    if (error.status == VOXTILE_CANCELLED)
    {
      ProcessAborted aborted(__FILE__, __LINE__);
      aborted.SetLocation(ITK_LOCATION);
      throw aborted;
    }
    itkExceptionMacro(<< error.what());
  }
  if (!direct)
  {
    LabelType * labels = output->GetBufferPointer();
    for (size_t voxel = 0; voxel < count; ++voxel)
    {
      if (beside[voxel] > static_cast<uintmax_t>(std::numeric_limits<LabelType>::max()))
      {
        itkExceptionMacro(<< "label " << beside[voxel] << " does not fit the pixel type of the output");
      }
      labels[voxel] = static_cast<LabelType>(beside[voxel]);
    }
  }
  this->UpdateProgress(1.0f);
}

template <typename TInputImage, typename TLabelImage>
void
VoxtileSegmentationImageFilter<TInputImage, TLabelImage>::PrintSelf(std::ostream & os, Indent indent) const
{
  Superclass::PrintSelf(os, indent);
  os << indent << "ModelFileName: " << m_ModelFileName << std::endl;
  os << indent << "Device: " << m_Device << std::endl;
  os << indent << "Threads: " << m_Threads << std::endl;
  os << indent << "MemoryBudget: " << m_MemoryBudget << std::endl;
  os << indent << "Precision: " << m_Precision << std::endl;
  os << indent << "DeviceMemoryBudget: " << m_DeviceMemoryBudget << std::endl;
  os << indent << "TileStep: " << m_TileStep << std::endl;
  os << indent << "Mirror: " << m_Mirror << std::endl;
  os << indent << "Raw: " << m_Raw << std::endl;
  os << indent << "KeepLabels: " << m_KeepLabels.size() << std::endl;
}

} // namespace itk

#endif
